const find = document.getElementById("find"), found = document.getElementById("found");
const cards = [...document.querySelectorAll(".feature")].map(card => ({
  card,
  text: [...card.querySelectorAll(".word, bdi")].map(part => part.textContent).join("\n").toLowerCase(),
  open: card.open,
}));
const saes = [...document.querySelectorAll(".sae")].map(sae => ({sae, open: sae.open}));
find.addEventListener("input", () => {
  const query = find.value.toLowerCase();
  let shown = 0;
  for (const {card, text, open} of cards) {
    const match = text.includes(query);
    card.hidden = !match;
    card.open = query ? match : open;
    shown += match;
  }
  for (const {sae, open} of saes) sae.open = query ? sae.querySelector(".feature:not([hidden])") !== null : open;
  found.textContent = query ? `${shown} of ${cards.length}` : "";
});
