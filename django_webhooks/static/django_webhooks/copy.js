/* Buttons that copy the text of another element: shown only where that works. */
(() => {
    "use strict";

    function copy(button) {
        const text = document.getElementById(button.dataset.copy).textContent;
        navigator.clipboard.writeText(text).then(() => {
            button.textContent = button.dataset.copied;
        });
    }

    document.addEventListener("DOMContentLoaded", () => {
        if (!navigator.clipboard) {
            return;
        }
        for (const button of document.querySelectorAll("button[data-copy]")) {
            button.hidden = false;
            button.addEventListener("click", () => copy(button));
        }
    });
})();
