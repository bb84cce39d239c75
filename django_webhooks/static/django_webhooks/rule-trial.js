/* Asks the server about a rule that is not saved: is it well-formed, what would it have matched,
   what would be sent. The answers are its own, in words and in HTML; nothing is judged here. */
"use strict";

(function () {
    const {element, select} = window.djangoWebhooks.values;

    /** Posts fields with the token of a form. The answer as JSON or text; null if there is none. */
    async function post(url, fields, form) {
        const body = new URLSearchParams(fields);
        body.set("csrfmiddlewaretoken", form.elements.csrfmiddlewaretoken.value);
        try {
            const response = await fetch(url, {method: "POST", body, credentials: "same-origin"});
            const isJson = response.headers.get("content-type")?.startsWith("application/json");
            if (!response.ok || response.redirected) {  // to the login
                return null;
            }
            return isJson ? await response.json() : await response.text();
        } catch {
            return null;
        }
    }

    /** What the form of the subscription holds of that which decides about a request. Of headers
        the names go along: their values are shown nowhere, so they stay here. */
    function subscriptionOf({elements}) {
        const typed = {};
        for (const name of ["url", "owner", "signature"]) {
            if (elements[name]) {
                typed[name] = elements[name].value;
            }
        }
        if (elements.headers) {
            typed.headers = namesOf(elements.headers.value);
        }
        return typed;
    }

    function namesOf(text) {
        try {
            const headers = text.trim() && JSON.parse(text);
            const isObject = headers && typeof headers === "object" && !Array.isArray(headers);
            return isObject
                ? JSON.stringify(Object.fromEntries(Object.keys(headers).map(name => [name, "x"])))
                : headers && "[]";
        } catch {
            return "{";
        }
    }

    const PAUSE = 300;  // ms without typing, after which objects are looked for

    /** The panel below a rule: try it on past events, or on one object. */
    function panel(builder, {texts, urls, subscription}) {
        const {form} = builder.area;
        const answer = element("div", {class: "webhooks-answer", role: "region", "aria-live": "polite", "aria-label": texts.result});
        const types = select([], "", {"aria-label": texts.asType});
        const key = element("input", {
            type: "text", "aria-label": texts.object, placeholder: texts.object,
            autocomplete: "off", list: `${builder.id}-objects`,
        });
        const offered = element("datalist", {id: `${builder.id}-objects`});
        let timer;
        const one = element("div", {class: "webhooks-one"}, types, key, offered);

        async function ask(url, fields) {
            answer.textContent = texts.wait;
            const asked = {...builder.typed, ...subscriptionOf(form), subscription, ...fields};
            const html = await post(url, asked, form);
            if (html === null) {
                answer.textContent = texts.noAnswer;
            } else {
                answer.replaceChildren(document.createRange().createContextualFragment(html));
            }
        }

        async function offer() {
            const asked = {type: types.value, object: key.value};
            const found = await post(urls.objects, asked, form);
            if (asked.object !== key.value || asked.type !== types.value) {
                return;  // typed on meanwhile
            }
            offered.replaceChildren(...(found?.objects || []).map(
                ([value, label]) => element("option", {value, label}),
            ));
        }

        function refresh() {
            const {objects} = builder.published;
            types.replaceChildren(...objects.map(([value, label]) => element("option", {value}, label)));
            types.value = (objects.find(([type]) => type.endsWith(".updated")) || objects[0] || [""])[0];
            one.hidden = !objects.length;
            offered.replaceChildren();
        }

        builder.pattern.addEventListener("change", refresh);
        types.addEventListener("change", offer);
        key.addEventListener("focus", offer);
        key.addEventListener("input", () => {
            clearTimeout(timer);
            timer = setTimeout(offer, PAUSE);
        });
        key.addEventListener("keydown", event => {
            if (event.key === "Enter") {  // which would save the whole page
                event.preventDefault();
                ask(urls.object, {type: types.value, object: key.value});
            }
        });
        one.append(builder.button(
            texts.tryObject,
            () => ask(urls.object, {type: types.value, object: key.value}),
            {class: "button"},
        ));
        refresh();
        const heading = element("legend", {}, texts.tryIt);
        const events = builder.button(texts.tryEvents, () => ask(urls.try, {}), {class: "button"});
        return element("fieldset", {class: "webhooks-trial"}, heading, events, one, answer);
    }

    window.djangoWebhooks.trial = {post, panel};
})();
