/* The rule builder: conditions are put together by mouse or keyboard, and the text area, which is
   what is saved, always holds them as JSON. Without this script the text area is all there is. */
"use strict";

(function () {
    const {tree, values, trial} = window.djangoWebhooks;
    const {element, select} = values;
    const PAUSE = 400;  // ms without typing, after which the server is asked
    let count = 0;

    function data() {
        return JSON.parse(document.getElementById("webhooks-rules").dataset.rules);
    }

    class RuleBuilder {
        constructor(area, pattern, catalogue) {
            Object.assign(this, {area, pattern, catalogue, texts: catalogue.texts});
            this.id = `webhooks-builder-${count++}`;
            this.places = new Map();  // node → its element
            this.fresh = new Set();  // conditions that are being written for the first time
            this.problems = [];
            this.body = element("div", {class: "webhooks-conditions"});
            this.sentence = element("p", {class: "webhooks-sentence", "aria-live": "polite"});
            this.notes = element("ul", {class: "webhooks-problems"});
            this.said = element("p", {class: "visually-hidden", role: "status"});
            this.toggle = this.button("", () => this.switchView(), {class: "button webhooks-toggle"});
            this.element = element(
                "div", {class: "webhooks-builder"},
                this.body, this.notes, this.sentence, this.toggle, this.said,
            );
            if (catalogue.urls.try) {
                this.element.append(trial.panel(this, catalogue));
            }
            this.mount();
        }

        mount() {
            const row = this.area.closest(".form-row");
            const patternRow = this.pattern.closest(".form-row");
            for (const each of [row, patternRow]) {  // what is wrong is said at its place
                each.classList.remove("errors");
                each.querySelector(".errorlist")?.remove();
            }
            row.append(this.element);
            this.help = row.querySelector(".help");
            this.description = element("div");
            this.patternNotes = element("ul", {class: "webhooks-problems"});
            patternRow.firstElementChild.append(element("div", {class: "help"}, this.description));
            patternRow.append(this.patternNotes);
            this.area.addEventListener("input", () => this.checkSoon());
            this.pattern.addEventListener("change", () => {
                this.render();
                this.checkSoon();
            });
            this.showForm(false);
            if (this.isForm) {
                this.render();
            }
            this.show(JSON.parse(this.area.dataset.judgement || "{}"));
        }

        // The two views

        showForm(announce) {
            try {
                this.root = tree.read(this.area.value);
                this.isForm = true;
            } catch {
                this.isForm = false;
            }
            this.showView(announce);
            return this.isForm;
        }

        switchView() {
            if (this.isForm) {
                this.isForm = false;
                this.showView();
                this.area.focus();
            } else if (this.showForm()) {
                this.render();
                this.show({...this.judgement});
            } else {
                this.show({problems: [{field: "conditions", path: "", message: this.texts.notJson}]});
                this.area.focus();
            }
        }

        showView() {
            this.area.hidden = this.isForm;
            this.body.hidden = !this.isForm;
            this.help?.toggleAttribute("hidden", this.isForm);
            this.toggle.textContent = this.isForm ? this.texts.asJson : this.texts.asForm;
        }

        // What the pattern publishes

        get published() {
            return this.catalogue.patterns[this.pattern.value] || {shapes: [], objects: []};
        }

        get fields() {
            const found = new Map();
            for (const number of this.published.shapes) {
                for (const field of this.catalogue.shapes[number]) {
                    const other = found.get(field.path);
                    const differs = other && other.kind !== field.kind;
                    found.set(field.path, differs ? {...field, kind: "unknown", choices: []} : field);
                }
            }
            return found;
        }

        fieldOf(node) {
            return this.fields.get(node.field) || {path: node.field, kind: "unknown", choices: []};
        }

        // Changes

        changed() {
            this.area.value = tree.write(this.root);
            this.checkSoon();
        }

        restructured(said, node, role) {
            this.changed();
            this.render();
            this.say(said);
            const place = this.places.get(node) || this.body;
            (place.querySelector(`:scope [data-role="${role}"]`) || place.querySelector("button, select")).focus();
        }

        add(parent, node) {
            parent.nodes.push(node);
            const first = node.type === "group" ? node.nodes[0] : node;
            this.fresh.add(first);
            this.restructured(this.texts.added, first, "field");
        }

        remove(node) {
            const parent = this.parentOf(node);
            const index = parent.nodes.indexOf(node);
            parent.nodes.splice(index, 1);
            this.prune(parent);
            const next = parent.nodes[index] || parent.nodes[index - 1];
            this.restructured(this.texts.removed, next || parent, next ? "remove" : "add");
        }

        wrap(node) {
            const parent = this.parentOf(node);
            const other = parent.connective === "all" ? "any" : "all";
            parent.nodes.splice(parent.nodes.indexOf(node), 1, tree.group(other, [node]));
            this.restructured(this.texts.wrapped, node, "field");
        }

        /** Up or down by one: into a group that is there, out of its own at the end of it. */
        move(node, by) {
            const parent = this.parentOf(node);
            const index = parent.nodes.indexOf(node);
            const neighbour = parent.nodes[index + by];
            const above = this.parentOf(parent);
            parent.nodes.splice(index, 1);
            if (neighbour && this.takes(neighbour, node)) {
                neighbour.nodes.splice(by < 0 ? neighbour.nodes.length : 0, 0, node);
            } else if (neighbour) {
                parent.nodes.splice(index + by, 0, node);
            } else if (above.connective === "not") {  // which holds one only
                above.nodes.splice(0, 1, tree.group("all", by < 0 ? [node, parent] : [parent, node]));
            } else {
                above.nodes.splice(above.nodes.indexOf(parent) + (by < 0 ? 0 : 1), 0, node);
            }
            this.prune(parent);
            this.restructured(by < 0 ? this.texts.movedUp : this.texts.movedDown, node, by < 0 ? "up" : "down");
        }

        takes(target, node) {
            const fits = this.depthOf(target) + tree.depth(node) <= this.catalogue.maxDepth;
            return target.type === "group" && target.connective !== "not" && fits;
        }

        connect(group, connective) {
            const isSameShape = connective !== "not" && group.connective !== "not";
            if (connective === "not" && group.nodes.length > 1) {
                group.nodes = [tree.group(group.connective, group.nodes)];
            }
            group.connective = connective;
            if (isSameShape) {
                this.changed();
            } else {
                this.restructured("", group, "connective");
            }
        }

        /** A group that has become empty goes, and so do those around it that hold nothing else. */
        prune(group) {
            while (group !== this.root && !group.nodes.length) {
                const parent = this.parentOf(group);
                parent.nodes.splice(parent.nodes.indexOf(group), 1);
                group = parent;
            }
        }

        parentOf(wanted) {
            let found = null;
            tree.walk(this.root, node => {
                found = node.nodes?.includes(wanted) ? node : found;
            });
            return found;
        }

        depthOf(wanted) {
            const parent = this.parentOf(wanted);
            return parent ? 1 + this.depthOf(parent) : 1;
        }

        say(text) {
            this.said.textContent = text;
        }

        // The page

        render() {
            if (!this.isForm) {
                return;
            }
            this.places.clear();
            this.description.textContent = this.published.description || "";
            const known = element("datalist", {id: `${this.id}-fields`});
            known.append(...[...this.fields.keys()].map(value => element("option", {value})));
            this.body.replaceChildren(this.group(this.root, 1), known);
            this.mark();
        }

        node(node, level, index) {
            return this[node.type](node, level, index);
        }

        group(group, level, position) {
            const {texts} = this;
            const name = level === 1 ? texts.conditions : texts.group.replace("%s", position);
            const connectives = select(
                Object.entries(texts.connectives), group.connective,
                {"data-role": "connective", "aria-label": name},
            );
            connectives.addEventListener("change", () => this.connect(group, connectives.value));
            const list = element("ol", {class: "webhooks-nodes"});
            list.append(...group.nodes.map((child, index) => {
                const label = level === 1 ? `${index + 1}` : `${position}.${index + 1}`;
                return element("li", {}, this.node(child, level + 1, label));
            }));
            const isFull = group.connective === "not" && group.nodes.length > 0;
            const isDeep = level + 1 >= this.catalogue.maxDepth;
            const hint = this.pattern.value ? texts.always : texts.chooseType;
            const off = !this.pattern.value && !group.nodes.length;  // which has no fields yet
            const add = element(
                "div", {class: "webhooks-add"},
                isFull ? null : this.button(texts.add, () => this.add(group, tree.condition()), {
                    "data-role": "add", class: "button", disabled: off,
                }),
                isFull || isDeep ? null : this.button(texts.addGroup, () => this.addGroup(group), {
                    class: "button", disabled: off,
                }),
            );
            const made = element(
                "fieldset", {class: "webhooks-group"},
                element("legend", {class: "visually-hidden"}, name),
                element(
                    "div", {class: "webhooks-head"}, group.nodes.length ? connectives : null,
                    group.nodes.length ? null : element("p", {class: "webhooks-hint"}, hint),
                    level === 1 ? null : this.tools(group, name),
                ),
                group.nodes.length ? list : null, add, this.notesFor(),
            );
            this.places.set(group, made);
            return made;
        }

        addGroup(group) {
            const other = group.connective === "any" ? "all" : "any";
            this.add(group, tree.group(other, [tree.condition()]));
        }

        condition(node, level, position) {
            const {texts} = this;
            const name = texts.condition.replace("%s", position);
            const made = element(
                "div", {class: "webhooks-condition", role: "group", "aria-label": name},
                this.fieldControl(node, name), this.operatorControl(node, name), this.valueControl(node, name),
                this.tools(node, name, level), this.notesFor(),
            );
            made.addEventListener("focusout", () => this.leaveSoon(node));
            this.places.set(node, made);
            return made;
        }

        /** Nothing is wrong with a condition that is not written to its end. */
        leaveSoon(node) {
            setTimeout(() => {  // by then the focus is where it goes
                if (!this.places.get(node)?.contains(document.activeElement)) {
                    this.fresh.delete(node);
                    this.mark();
                }
            });
        }

        /** Draws parts of one condition anew. Never the one that has the focus: a list that is
            searched by typing would forget the letters so far. */
        redraw(node, ...parts) {
            this.changed();
            const place = this.places.get(node);
            const name = place.getAttribute("aria-label");
            for (const part of parts) {
                place.querySelector(`:scope > .webhooks-${part}`).replaceWith(
                    this[`${part}Control`](node, name),
                );
            }
            this.mark();
        }

        fieldControl(node, name) {
            const {texts, fields} = this;
            const label = `${name}: ${texts.field}`;
            const isOther = node.other || !fields.size;
            if (isOther) {
                const input = element("input", {
                    type: "text", "data-role": "field", "aria-label": label, spellcheck: "false",
                    autocomplete: "off", list: `${this.id}-fields`, placeholder: texts.path,
                    ".value": node.field,
                });
                input.addEventListener("input", () => {
                    const before = this.fieldOf(node);
                    node.field = input.value.trim();
                    const now = this.fieldOf(node);
                    // At once, not when the focus leaves: it may be on its way to what is redrawn.
                    if (now.kind === before.kind && now.choices.length === before.choices.length) {
                        this.changed();
                    } else {
                        this.fitOperator(node);
                        this.redraw(node, "operator", "value");
                    }
                });
                return element("div", {class: "webhooks-field"}, input);
            }
            const known = [...fields.values()].map(({path, label}) => (
                [path, label ? `${label} (${path})` : path]
            ));
            const first = node.field ? [] : [["", texts.chooseField]];
            const odd = node.field && !fields.has(node.field)
                ? [[node.field, `${node.field} ${texts.notPublished.replace("%s", this.pattern.value)}`]] : [];
            const made = select(
                [...first, ...odd, ...known, ["\0other", texts.otherPath]], node.field,
                {"data-role": "field", "aria-label": label},
            );
            made.addEventListener("change", () => {
                node.other = made.value === "\0other";
                node.field = node.other ? "" : made.value;
                this.fitOperator(node);
                this.redraw(node, "operator", "value");
                hint.textContent = this.fieldOf(node).help || "";
                if (node.other) {
                    this.redraw(node, "field");
                    this.places.get(node).querySelector('[data-role="field"]').focus();
                }
            });
            const hint = element("span", {class: "webhooks-hint"}, this.fieldOf(node).help || "");
            return element("div", {class: "webhooks-field"}, made, hint);
        }

        /** Another field may be of another kind, of which other things are asked. */
        fitOperator(node) {
            const ways = this.waysOf(node);
            if (!ways.some(way => way.op === node.op)) {
                this.choose(node, ways[0]);
            }
            const {choices, kind} = this.fieldOf(node);
            const fits = choices.length ? choices.includes(node.value) : typeof node.value === (
                {number: "number", boolean: "boolean"}[kind] || "string"
            );
            const way = this.wayOf(node, ways);
            if (!("value" in way) && way.takes !== "nothing" && (!fits || kind in {date: 1, datetime: 1, time: 1})) {
                this.choose(node, way);
            }
        }

        waysOf(node) {
            const field = this.fieldOf(node);
            const {operators} = this.catalogue;
            const ways = operators[field.choices.length ? "choice" : field.kind] || operators.unknown;
            // Where no event has a value before the change, nothing can be asked of it.
            return this.published.looksBack === false ? ways.filter(way => !way.looksBack) : ways;
        }

        /** The way in which the operator of a condition was chosen. */
        wayOf(node, ways) {
            const same = ways.filter(way => way.op === node.op);
            return same.find(way => "value" in way && node.hasValue && way.value === node.value)
                || same.find(way => !("value" in way));
        }

        operatorControl(node, name) {
            const ways = this.waysOf(node);
            const odd = this.wayOf(node, ways) ? [] : [this.wayOf(node, this.catalogue.operators.any) || {
                op: node.op, words: `${node.op} ${this.texts.noOperator}`, takes: "text",
            }];
            const all = [...ways, ...odd];
            const made = select(
                all.map((way, index) => [String(index), way.words]),
                String(all.indexOf(this.wayOf(node, all))),
                {"data-role": "op", "aria-label": `${name}: ${this.texts.operator}`},
            );
            made.addEventListener("change", () => {
                const way = all[Number(made.value)];
                const before = this.wayOf(node, all);
                const keeps = before.takes === way.takes || way.takes !== "list" && before.takes !== "list";
                this.choose(node, way, keeps && before.takes !== "nothing" ? node.value : undefined);
                this.redraw(node, "value");
            });
            return element("div", {class: "webhooks-operator"}, made);
        }

        choose(node, way, value) {
            node.op = way.op;
            node.hasValue = "value" in way || way.takes !== "nothing";
            const {choices, kind} = this.fieldOf(node);
            const first = choices.length ? choices[0] : kind === "boolean" ? true : "";
            const empty = way.takes === "list" ? [] : first;
            node.value = "value" in way ? way.value : value ?? empty;
        }

        valueControl(node, name) {
            const way = this.wayOf(node, this.waysOf(node))
                || this.wayOf(node, this.catalogue.operators.any) || {takes: "text"};
            const made = values.widget({
                takes: way.takes, field: this.fieldOf(node), value: node.value, texts: this.texts,
                attributes: {"data-role": "value", "aria-label": `${name}: ${this.texts.value}`},
                typeLabel: `${name}: ${this.texts.valueType}`,
                change: value => {
                    node.value = value;
                    node.hasValue = true;
                    this.changed();
                    this.mark();
                },
            });
            return element("div", {class: "webhooks-value"}, ...made);
        }

        /** What is no condition: shown as it is, and kept. */
        other(node, level, position) {
            const name = this.texts.condition.replace("%s", position);
            const made = element(
                "div", {class: "webhooks-condition", role: "group", "aria-label": name},
                element("code", {class: "webhooks-other"}, JSON.stringify(node.json)),
                this.tools(node, name, level), this.notesFor(),
            );
            this.places.set(node, made);
            return made;
        }

        tools(node, name, level) {
            const {texts} = this;
            const parent = this.parentOf(node);
            const nodes = parent.nodes;
            const index = nodes.indexOf(node);
            const isTop = parent === this.root;
            const tool = (sign, label, role, act, off = false) => this.button(sign, act, {
                class: "webhooks-tool-button", "data-role": role, title: label,
                "aria-label": `${label}: ${name}`, disabled: off,
            });
            const wrap = tool("( )", texts.wrap, "wrap", () => this.wrap(node));
            wrap.append(element("span", {class: "webhooks-words"}, ` ${texts.wrap}`));
            const mayWrap = node.type !== "group" && level < this.catalogue.maxDepth;
            return element(
                "div", {class: "webhooks-tools"},
                tool("↑", texts.up, "up", () => this.move(node, -1), isTop && index === 0),
                tool("↓", texts.down, "down", () => this.move(node, 1), isTop && index === nodes.length - 1),
                mayWrap ? wrap : null,
                tool("×", texts.remove, "remove", () => this.remove(node)),
            );
        }

        notesFor() {
            return element("ul", {class: "webhooks-problems"});
        }

        button(label, act, attributes = {}) {
            const made = element("button", {type: "button", ...attributes}, label);
            made.addEventListener("click", act);
            return made;
        }

        // What the server says of it

        get typed() {
            return {event_type: this.pattern.value, conditions: this.area.value};
        }

        checkSoon() {
            clearTimeout(this.timer);
            this.timer = setTimeout(() => this.check(), PAUSE);
        }

        async check() {
            if (!this.pattern.value) {
                return;
            }
            const asked = this.typed;
            const judgement = await trial.post(this.catalogue.urls.check, asked, this.area.form);
            const isOld = asked.event_type !== this.pattern.value || asked.conditions !== this.area.value;
            if (judgement && !isOld) {
                this.show(judgement);
            }
        }

        show(judgement) {
            this.judgement = judgement;
            this.sentence.textContent = judgement.sentence || "";
            this.sentence.hidden = !judgement.sentence;
            this.problems = judgement.problems || [];
            this.mark();
        }

        /** Puts each problem where it belongs: at the part of the condition that its path names. */
        mark() {
            for (const each of [this.patternNotes, ...this.element.querySelectorAll(".webhooks-problems")]) {
                each.replaceChildren();
            }
            for (const each of [this.pattern, ...this.element.querySelectorAll("[aria-invalid]")]) {
                each.removeAttribute("aria-invalid");
                each.removeAttribute("aria-describedby");
            }
            const own = this.isForm ? this.obvious() : [];
            const paths = own.map(each => each.path);
            const others = this.problems.filter(each => !paths.includes(each.path.replace(/\[\d+\]$/, "")));
            [...own, ...others].forEach((problem, index) => this.markOne(problem, `${this.id}-problem-${index}`));
        }

        /** What is wrong as far as that can be told at once, in the form of the server's problems. */
        obvious() {
            const found = [];
            tree.walk(this.root, (node, path) => {
                const [part, message] = node.type === "condition" ? this.wrongOf(node) : [];
                if (message) {
                    found.push({field: "conditions", path: path ? `${path}.${part}` : part, message});
                }
            });
            return found;
        }

        /** The part of a condition that is wrong, and what is said of it. */
        wrongOf(node) {
            if (!node.field) {
                return ["field", this.texts.missingField];
            }
            const way = this.wayOf(node, this.waysOf(node));
            const isOwn = way && !("value" in way);
            const kind = isOwn
                && values.misfit({takes: way.takes, field: this.fieldOf(node), value: node.value});
            return ["value", kind && this.texts.enter[kind]];
        }

        markOne(problem, id) {
            const {place, part, node} = this.placeOf(problem);
            if (this.fresh.has(node)) {
                return;
            }
            const isOfPattern = problem.field === "event_type";
            const notes = isOfPattern ? this.patternNotes
                : place.querySelector(":scope > .webhooks-problems") || this.notes;
            // Of JSON, the path is all that tells the place.
            const text = this.isForm || !problem.path
                ? problem.message : `${problem.path}: ${problem.message}`;
            notes.append(element("li", {id, class: `webhooks-${problem.level || "error"}`}, text));
            const control = isOfPattern ? this.pattern
                : place.querySelector(`:scope [data-role="${part}"]`);
            if (control && problem.level !== "warning") {
                control.setAttribute("aria-invalid", "true");
            }
            control?.setAttribute("aria-describedby", id);
        }

        placeOf({field, path}) {
            let found = {place: this.element, part: "", length: -1};
            if (!this.isForm || field !== "conditions") {
                return found;
            }
            tree.walk(this.root, (node, start) => {
                const place = this.places.get(node);
                const isWithin = place && start !== null && (path === start || !start || path.startsWith(`${start}.`));
                if (isWithin && start.length > found.length) {
                    const rest = path.slice(start ? start.length + 1 : 0).replace(/\[.*/, "");
                    const part = node.type === "group" ? "connective" : rest || "field";
                    found = {place, part, node, length: start.length};
                }
            });
            return found;
        }
    }

    function start(within) {
        for (const area of within.querySelectorAll("textarea.webhooks-tree")) {
            const pattern = area.form.elements[area.name.replace(/conditions$/, "event_type")];
            if (!area.name.includes("__prefix__") && pattern && !area.dataset.started) {
                area.dataset.started = "true";
                new RuleBuilder(area, pattern, data());
            }
        }
    }

    document.addEventListener("DOMContentLoaded", () => start(document));
    document.addEventListener("formset:added", event => start(event.target));
})();
