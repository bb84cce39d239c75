/* Conditions between JSON text and the tree that the builder edits. Nothing here touches the page.

   A node is a group {type, connective, nodes}, a condition {type, field, op, value, hasValue}, or
   what is neither, kept as it is: {type, json}. The root is always a group; `bare` says that a
   single condition in it is written without it. */
"use strict";

(function () {
    const CONNECTIVES = ["all", "any", "not"];
    const KEYS = ["field", "op", "value"];
    const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

    function group(connective, nodes, bare = false) {
        return {type: "group", connective, nodes, bare};
    }

    function condition() {
        return {type: "condition", field: "", op: "eq", value: "", hasValue: true};
    }

    /** The root for a JSON text; throws SyntaxError for what is none. */
    function read(text) {
        const json = text.trim() ? JSON.parse(text, keepDigits) : {};
        if (isObject(json) && !Object.keys(json).length) {
            return group("all", [], true);
        }
        const node = readNode(json);
        return node.type === "group" ? node : group("all", [node], true);
    }

    /** The JSON text of a tree; empty if there are no conditions. */
    function write(root) {
        if (!root.nodes.length) {
            return "";
        }
        return JSON.stringify(writeNode(isBare(root) ? root.nodes[0] : root), null, 2);
    }

    /** Calls `visit(node, path)` for each node, with the path as the server writes it. */
    function walk(root, visit) {
        if (isBare(root)) {
            visit(root, null);
            step(root.nodes[0], "", visit);
        } else {
            step(root, "", visit);
        }
    }

    function step(node, path, visit) {
        visit(node, path);
        if (node.type === "group") {
            node.nodes.forEach((child, index) => {
                const name = node.connective === "not" ? "not" : `${node.connective}[${index}]`;
                step(child, path ? `${path}.${name}` : name, visit);
            });
        }
    }

    function isBare(root) {
        return root.bare && root.nodes.length === 1 && root.connective !== "not";
    }

    /* A number that a script would round, 9007199254740993 or 1e400, stays as it is written. */
    function keepDigits(_key, value, context) {
        const isRounded = typeof value === "number" && context && context.source !== undefined
            && String(value) !== context.source;
        return isRounded && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
    }

    function readNode(json) {
        const keys = isObject(json) ? Object.keys(json) : [];
        if (keys.length === 1 && CONNECTIVES.includes(keys[0])) {
            const [connective] = keys;
            const inner = connective === "not" ? [json.not] : json[connective];
            if (Array.isArray(inner)) {
                return group(connective, inner.map(readNode));
            }
        }
        const isCondition = typeof json?.field === "string" && typeof json?.op === "string"
            && keys.every(key => KEYS.includes(key));
        if (isCondition) {
            const {field, op, value} = json;
            return {type: "condition", field, op, value, hasValue: keys.includes("value")};
        }
        return {type: "other", json};
    }

    function writeNode(node) {
        if (node.type === "other") {
            return node.json;
        }
        if (node.type === "condition") {
            const {field, op, value} = node;
            return node.hasValue ? {field, op, value} : {field, op};
        }
        const inner = node.nodes.map(writeNode);
        return {[node.connective]: node.connective === "not" ? inner[0] ?? {} : inner};
    }

    function isObject(json) {
        return typeof json === "object" && json !== null && !Array.isArray(json);
    }

    /** What was typed, as a number where nothing of it gets lost, else as text. */
    function number(text) {
        const trimmed = text.trim();
        return NUMBER.test(trimmed) && String(Number(trimmed)) === trimmed
            ? Number(trimmed) : trimmed;
    }

    /** A value as people type it. */
    function typed(value) {
        if (value === null || value === undefined) {
            return "";
        }
        if (JSON.isRawJSON && JSON.isRawJSON(value)) {
            return value.rawJSON;
        }
        return typeof value === "object" ? JSON.stringify(value) : String(value);
    }

    /** How deep the tree is below a node, the node counted. */
    function depth(node) {
        return 1 + Math.max(0, ...(node.nodes || []).map(depth));
    }

    window.djangoWebhooks = {
        ...window.djangoWebhooks,
        tree: {group, condition, read, write, walk, isBare, number, typed, depth},
    };
})();
