/* The value of a condition: a widget by the kind of the field, and what it says in JSON. */
"use strict";

(function () {
    const {tree} = window.djangoWebhooks;

    const INPUTS = {
        date: {type: "date", pattern: /^\d{4}-\d{2}-\d{2}$/},
        time: {type: "time", step: "1", pattern: /^\d{2}:\d{2}(:\d{2})?$/},
        datetime: {
            type: "datetime-local",
            step: "1",
            pattern: /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?$/,
            hint: "utc",
        },
    };

    const NUMBER = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i;  // as the server has it

    /** An element with attributes, properties (`.value`) and children. */
    function element(tag, attributes = {}, ...children) {
        const made = document.createElement(tag);
        for (const [name, value] of Object.entries(attributes)) {
            if (name.startsWith(".")) {
                made[name.slice(1)] = value;
            } else if (value !== false && value !== null && value !== undefined) {
                made.setAttribute(name, value === true ? "" : value);
            }
        }
        made.append(...children.filter(child => child !== null && child !== undefined));
        return made;
    }

    function select(options, chosen, attributes = {}) {
        const made = element("select", attributes);
        for (const [value, label] of options) {
            made.append(element("option", {value}, label));
        }
        made.value = chosen;
        return made;
    }

    /** The widget for what `takes` says a field of `field.kind` is compared with.

        Gives its elements, the first of which has the focus; `change(value)` is called with the
        new JSON value. A value that is not touched is never written anew. */
    function widget({takes, field, value, attributes, typeLabel, texts, change}) {
        if (takes === "nothing") {
            return [];
        }
        if (takes === "list") {
            return field.choices.length
                ? checkboxes({field, value, attributes, texts, change})
                : lines({field, value, attributes, texts, change});
        }
        if (takes === "pattern") {
            return [text({value, attributes: {...attributes, class: "webhooks-pattern"}, change})];
        }
        if (field.choices.length) {
            return [choice({field, value, attributes, texts, change})];
        }
        if (field.kind === "boolean") {
            const options = [["true", texts.true], ["false", texts.false]];
            return [offered(options, value, attributes, texts, typed => change(typed === "true"))];
        }
        if (INPUTS[field.kind] && takes !== "text") {
            return moment({kind: field.kind, value, attributes, texts, change});
        }
        if (field.kind === "number") {
            const numeric = {...attributes, inputmode: "decimal"};
            return [text({value, attributes: numeric, change: typed => change(tree.number(typed))})];
        }
        if (field.kind === "unknown" || field.kind === "list") {
            return anything({value, attributes, typeLabel, texts, change});
        }
        return [text({value, attributes, change})];
    }

    function text({value, attributes, change}) {
        const input = element("input", {
            type: "text", autocomplete: "off", spellcheck: "false", ...attributes,
            ".value": tree.typed(value),
        });
        input.addEventListener("input", () => change(input.value));
        return input;
    }

    function moment({kind, value, attributes, texts, change}) {
        const {pattern, hint, ...input} = INPUTS[kind];
        const end = hint ? "Z" : "";
        const shown = typeof value === "string" ? value.replace(/Z$/, "") : "";
        const fits = value === "" || pattern.test(shown) && (!hint || value.endsWith("Z"));
        if (!fits) {  // a form that the browser's own input can't show must not get lost
            return [text({value, attributes, change})];
        }
        const made = element("input", {...input, ...attributes, ".value": shown});
        made.addEventListener("input", () => change(made.value && made.value + end));
        return hint ? [made, element("span", {class: "webhooks-hint"}, texts[hint])] : [made];
    }

    function choice({field, value, attributes, texts, change}) {
        const options = field.choices.map(each => [tree.typed(each), caption(field, each, texts)]);
        return offered(options, value, attributes, texts, typed => {
            const found = field.choices.find(each => tree.typed(each) === typed);
            change(found === undefined ? typed : found);
        });
    }

    /** A choice list in which a value that is not offered (any more) is kept, and shown as such. */
    function offered(options, value, attributes, texts, change) {
        const typed = tree.typed(value);
        const known = options.some(([each]) => each === typed);
        const first = value === "" && !known ? [["", texts.choose]] : [];
        const odd = value !== "" && !known ? [[typed, `${typed} ${texts.notOffered}`]] : [];
        const made = select([...first, ...options, ...odd], typed, attributes);
        made.addEventListener("change", () => change(made.value));
        return made;
    }

    function checkboxes({field, value, attributes, texts, change}) {
        const chosen = Array.isArray(value) ? [...value] : [];
        const odd = chosen.filter(each => !field.choices.includes(each));
        const boxes = [...field.choices, ...odd].map((each, index) => {
            const box = element("input", {
                type: "checkbox", ".checked": chosen.includes(each),
                ...(index ? {} : attributes), "aria-label": null,
            });
            box.addEventListener("change", () => {
                change(all.filter(([one]) => one.checked).map(([, item]) => item));
            });
            const words = caption(field, each, texts) + (odd.includes(each) ? ` ${texts.notOffered}` : "");
            return [box, each, element("label", {}, box, " ", words)];
        });
        const all = boxes.map(([box, each]) => [box, each]);
        const legend = element("legend", {class: "visually-hidden"}, attributes["aria-label"]);
        const set = element("fieldset", {class: "webhooks-choices"}, legend);
        set.append(...boxes.map(([, , made]) => made));
        return [set];
    }

    function lines({field, value, attributes, texts, change}) {
        const shown = Array.isArray(value) ? value.map(tree.typed).join("\n") : tree.typed(value);
        const area = element("textarea", {rows: "3", ...attributes, spellcheck: "false"});
        area.value = shown;
        area.addEventListener("input", () => {
            const items = area.value.split("\n").map(each => each.trim()).filter(Boolean);
            const numbers = field.kind === "number"
                || Array.isArray(value) && value.length && value.every(isNumber);
            change(numbers ? items.map(tree.number) : items);
        });
        return [area, element("span", {class: "webhooks-hint"}, texts.onePerLine)];
    }

    /** Of a field of unknown kind nobody knows whether 1000 is a number: it is asked. */
    function anything({value, attributes, typeLabel, texts, change}) {
        let type = isNumber(value) ? "number" : typeof value === "boolean" ? "boolean" : "text";
        const input = text({value, attributes, change: () => tell()});
        const types = select(
            [["text", texts.asText], ["number", texts.asNumber], ["boolean", texts.asBoolean]],
            type, {"aria-label": typeLabel, class: "webhooks-type"},
        );
        function tell() {
            const typed = input.value;
            const known = {true: true, false: false}[typed.trim().toLowerCase()];
            change({
                text: typed,
                number: tree.number(typed),
                boolean: known === undefined ? typed : known,
            }[type]);
        }
        types.addEventListener("change", () => {
            type = types.value;
            tell();
        });
        return [input, types];
    }

    /** What a value should be and, as far as can be told here, is not: a key of `texts.enter`. */
    function misfit({takes, field, value}) {
        const {kind, choices, whole} = field;
        if (takes === "nothing" || takes === "pattern" || choices.length) {
            return null;
        }
        const items = takes === "list" && Array.isArray(value) ? value : [value];
        if (kind === "number") {
            const texts = items.map(tree.typed);
            if (!texts.every(each => NUMBER.test(each))) {
                return whole ? "whole" : kind;
            }
            return whole && texts.some(each => Number(each) % 1) ? "whole" : null;
        }
        return items.includes("") ? kind : null;
    }

    /** The value of a choice, and what it is called where that says more. */
    function caption(field, value, texts) {
        const called = (field.labels || [])[field.choices.indexOf(value)];
        const plain = label(value, texts);
        return called ? `${called} (${plain})` : plain;
    }

    function label(value, texts) {
        if (value === "") {
            return texts.empty;
        }
        return typeof value === "boolean" ? texts[String(value)] : tree.typed(value);
    }

    function isNumber(value) {
        return typeof value === "number" || Boolean(JSON.isRawJSON && JSON.isRawJSON(value));
    }

    window.djangoWebhooks.values = {widget, misfit, element, select};
})();
