/* Gives the fields that Django's admin makes with select2 the names that their labels have. */
(() => {
    "use strict";

    function name(select) {
        const label = document.querySelector(`label[for="${select.id}"]`);
        const shown = select.parentElement.querySelectorAll(
            ":is([role=combobox], [role=textbox]):not([aria-label])"
        );
        for (const field of label ? shown : []) {
            field.setAttribute("aria-label", label.textContent.replace(/:\s*$/, "").trim());
        }
    }

    document.addEventListener("DOMContentLoaded", () => {
        // select2 makes them at some moment after this one.
        for (const select of document.querySelectorAll("select.admin-autocomplete")) {
            new MutationObserver(() => name(select)).observe(select.parentElement, {
                childList: true,
            });
            name(select);
        }
    });
})();
