document.documentElement.classList.add("js");
const flow = document.querySelector("svg.flow");
const cards = new Map([...flow.querySelectorAll(".card")].map(card => [card.dataset.node, card]));
const edges = [...flow.querySelectorAll(".edge")];
let pinned = document.querySelector(".detail[data-first]").id;

function show(name, light) {
  for (const part of document.querySelectorAll(".shown")) part.classList.remove("shown");
  document.getElementById(name).classList.add("shown");
  cards.get(name).classList.add("shown");
  flow.classList.toggle("lit", light);
  for (const part of flow.querySelectorAll(".on")) part.classList.remove("on");
  cards.get(name).classList.add("on");
  for (const edge of edges) {
    const {source, target} = edge.dataset;
    if (source !== name && target !== name) continue;
    for (const part of [edge, cards.get(source), cards.get(target)]) part.classList.add("on");
  }
}

function pin(name) {
  pinned = name;
  show(name, false);
}

for (const [name, card] of cards) {
  card.addEventListener("mouseenter", () => show(name, true));
  card.addEventListener("mouseleave", () => show(pinned, false));
  card.addEventListener("focus", () => show(name, false));
  card.addEventListener("click", () => pin(name));
  card.addEventListener("keydown", event => { if (event.key === "Enter") pin(name); });
}
document.querySelector(".details").addEventListener("click", event => {
  const link = event.target.closest("a");
  if (!link) return;
  event.preventDefault();
  const name = link.hash.slice(1);
  pin(name);
  cards.get(name).scrollIntoView({block: "nearest", inline: "nearest", behavior: "smooth"});
});
document.getElementById("weak")?.addEventListener("change", event => flow.classList.toggle("plain", !event.target.checked));
const find = document.getElementById("find"), found = document.getElementById("found");
find.addEventListener("input", () => {
  const query = find.value.toLowerCase();
  let hits = 0;
  for (const [name, card] of cards) {
    const hit = document.getElementById(name).textContent.toLowerCase().includes(query);
    card.classList.toggle("miss", !hit);
    hits += hit;
  }
  found.textContent = query ? `${hits} of ${cards.size}` : "";
});
pin(pinned);
