/* After a refused form the focus is at the first thing to mend. */
(() => {
    "use strict";

    function focusFirst() {
        const note = document.querySelector("#content .errornote");
        if (!note) {
            return;
        }
        const wrong = [...document.querySelectorAll('[aria-invalid="true"]')];
        const first = wrong.find(each => each.getClientRects().length) || note;
        if (first === note) {
            note.tabIndex = -1;
        }
        first.focus();
    }

    // When the rule builder, which begins at this moment, has put its errors into their places.
    document.addEventListener("DOMContentLoaded", () => setTimeout(focusFirst));
})();
