/* A subscription's own headers as rows of a name and a value. The text area, which is what is saved,
   always holds them as JSON. Without this script the text area is all there is. */
"use strict";

(function () {
    const {element} = window.djangoWebhooks.values;
    const STRING = /"(?:[^"\\]|\\.)*"/g;

    /** The rows that a text holds, a name that is there twice as well; null for what is no such text. */
    function read(text, masked) {
        const json = text.trim() ? JSON.parse(text) : {};
        const isObject = typeof json === "object" && json !== null && !Array.isArray(json);
        if (!isObject || !Object.values(json).every(value => typeof value === "string")) {
            return null;
        }
        const strings = (text.match(STRING) || []).map(each => JSON.parse(each));  // name, value, name, …
        const rows = [];
        for (let at = 0; at < strings.length; at += 2) {
            const [name, value] = strings.slice(at, at + 2);
            const isKept = value === masked;
            rows.push({name, value: isKept ? "" : value, isKept});
        }
        return rows;
    }

    class HeaderRows {
        constructor(area) {
            this.area = area;
            this.texts = JSON.parse(area.dataset.texts);
            this.masked = area.dataset.masked;
            this.empty = area.value.trim() ? "{}" : "";  // an empty text changes nothing
            this.list = element("ol", {class: "webhooks-nodes"});
            this.hint = element("p", {class: "webhooks-hint"}, this.texts.none);
            this.note = element("ul", {class: "webhooks-problems"});
            this.said = element("p", {class: "visually-hidden", role: "status"});
            this.adder = this.button(this.texts.add, () => this.add(), {class: "button"});
            this.body = element(
                "fieldset", {"aria-describedby": area.getAttribute("aria-describedby")},
                element("legend", {class: "visually-hidden"}, this.texts.headers),
                this.hint, this.list, element("div", {class: "webhooks-add"}, this.adder),
            );
            this.toggle = this.button("", () => this.switchView(), {class: "button webhooks-toggle"});
            this.element = element(
                "div", {class: "webhooks-builder"}, this.body, this.note, this.toggle, this.said,
            );
            this.help = area.closest(".form-row").querySelector(".help");
            area.before(this.element);
            this.element.insertBefore(area, this.note);
            this.showRows();
            this.markWrong();
        }

        showRows() {
            try {
                this.rows = read(this.area.value, this.masked);
            } catch {
                this.rows = null;
            }
            this.showView(Boolean(this.rows));
            return Boolean(this.rows);
        }

        showView(isForm) {
            this.isForm = isForm;
            this.area.hidden = isForm;
            this.body.hidden = !isForm;
            this.help?.toggleAttribute("hidden", isForm);  // it is of JSON
            this.toggle.textContent = isForm ? this.texts.asJson : this.texts.asForm;
            this.note.replaceChildren();
            if (isForm) {
                this.render();
            }
        }

        switchView() {
            if (this.isForm) {
                this.showView(false);
                this.area.focus();
            } else if (!this.showRows()) {
                this.note.append(element("li", {class: "webhooks-error", role: "alert"}, this.texts.notRows));
                this.area.focus();
            }
        }

        render() {
            this.hint.hidden = this.rows.length > 0;
            this.list.replaceChildren(...this.rows.map((row, index) => this.row(row, index)));
        }

        row(row, index) {
            const {texts} = this;
            const called = texts.header.replace("%s", index + 1);
            const input = (part, placeholder) => {
                const made = element("input", {
                    type: "text", autocomplete: "off", spellcheck: "false", placeholder,
                    "aria-label": `${called}: ${texts[part]}`, ".value": row[part],
                });
                made.addEventListener("input", () => {
                    row[part] = made.value;
                    made.removeAttribute("aria-invalid");
                    this.write();
                });
                return made;
            };
            return element(
                "li", {class: "webhooks-header"},
                input("name", texts.namePlaceholder),
                input("value", row.isKept ? texts.keptPlaceholder : texts.valuePlaceholder),
                this.button("×", () => this.remove(index), {
                    class: "webhooks-tool-button", title: texts.remove,
                    "aria-label": `${texts.remove}: ${called}`,
                }),
            );
        }

        write() {
            const lines = this.rows
                .filter(({name, value, isKept}) => name || value || isKept)
                .map(({name, value, isKept}) => {
                    const told = isKept && !value ? this.masked : value;
                    return `  ${JSON.stringify(name.trim())}: ${JSON.stringify(told)}`;
                });
            this.area.value = lines.length ? `{\n${lines.join(",\n")}\n}` : this.empty;
        }

        add() {
            this.rows.push({name: "", value: "", isKept: false});
            this.changed(this.texts.added);
            this.list.lastElementChild.querySelector("input").focus();
        }

        remove(index) {
            this.rows.splice(index, 1);
            this.changed(this.texts.removed);
            const near = this.list.children[Math.min(index, this.rows.length - 1)];
            (near ? near.querySelector("button") : this.adder).focus();
        }

        changed(said) {
            this.write();
            this.render();
            this.said.textContent = said;
        }

        /** What the server refused is said above: the row that it names is marked. */
        markWrong() {
            if (this.isForm && this.area.getAttribute("aria-invalid")) {
                const said = this.area.closest(".form-row").querySelector(".errorlist")?.textContent || "";
                const found = this.rows.findIndex(({name}) => name && said.includes(name));
                const row = this.list.children[Math.max(found, 0)];
                row?.querySelector("input").setAttribute("aria-invalid", "true");
            }
        }

        button(label, act, attributes = {}) {
            const made = element("button", {type: "button", ...attributes}, label);
            made.addEventListener("click", act);
            return made;
        }
    }

    document.addEventListener("DOMContentLoaded", () => {
        document.querySelectorAll("textarea.webhooks-headers").forEach(area => new HeaderRows(area));
    });
})();
