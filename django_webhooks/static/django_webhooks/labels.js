/* Gives the fields that Django's admin makes with select2 the names that their labels have, and the
   values of a list the names of their columns, for where these stand one below the other. */
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

    function nameCells(list) {
        const names = [...list.tHead.rows[0].cells].map(
            each => each.matches(".action-checkbox-column") ? "" : each.textContent.trim()
        );
        for (const row of list.tBodies[0].rows) {
            for (const cell of row.querySelectorAll("td")) {
                const name = names[cell.cellIndex];
                cell.classList.toggle("webhooks-none", cell.textContent.trim() === "-");
                if (name && !cell.querySelector("ul, .webhooks-badge")) {  // which speak for themselves
                    cell.dataset.label = name;
                }
            }
        }
    }

    document.addEventListener("DOMContentLoaded", () => {
        document.querySelectorAll("#result_list").forEach(nameCells);
        // select2 makes them at some moment after this one.
        for (const select of document.querySelectorAll("select.admin-autocomplete")) {
            new MutationObserver(() => name(select)).observe(select.parentElement, {
                childList: true,
            });
            name(select);
        }
    });
})();
