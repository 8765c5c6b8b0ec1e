"use strict";
// What is folded away opens when a link leads into it, and for printing.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = target && target.closest("details"); fold; fold = fold.parentElement.closest("details")) {
    fold.open = true;
  }
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", reveal);
const narrow = matchMedia("(max-width: 60rem)");
for (const fold of document.querySelectorAll("#contents, .claims")) fold.open = !narrow.matches;
reveal();
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const fold of folded) fold.open = true;
  for (const image of document.images) image.loading = "eager";
});
addEventListener("afterprint", () => {
  for (const fold of folded) fold.open = false;
});
