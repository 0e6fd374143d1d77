// Keeps the page up to date: the server writes the HTML, this puts it in its place.
"use strict";

(() => {
  const MOST = 100; // requests, as many as the server keeps
  const find = (id) => document.getElementById(id);
  const list = find("requests"), link = find("link"), newer = find("newer"), pause = find("pause");
  const filter = find("filter"), show = find("show"), level = find("level");
  let waiting = []; // requests that came while the list was held, newest first
  let paused = false;

  // Changes `old` into `fresh` where they differ, so that what a person has selected, focused or opened stays.
  function morph(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const [ours, theirs] = [[...old.childNodes], [...fresh.childNodes]];
    theirs.forEach((child, place) => (place < ours.length ? morph(ours[place], child) : old.append(child)));
    ours.slice(theirs.length).forEach((child) => child.remove());
  }

  function parsed(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    localize(template.content);
    return template.content;
  }

  // The server writes UTC; a person reads the clock on the wall.
  function localize(root) {
    for (const time of root.querySelectorAll("time[data-clock]")) {
      const when = new Date(time.dateTime);
      time.textContent = when.toLocaleTimeString(undefined, { hour12: false });
      time.title = when.toLocaleString();
    }
  }

  function update(id, html) {
    const part = find(id);
    if (!part) return;
    const fresh = part.cloneNode(false);
    fresh.append(parsed(html));
    morph(part, fresh);
  }

  const isHeld = () => paused || list.querySelector("details[open]") !== null;

  function release() {
    list.prepend(...waiting);
    waiting = [];
    while (list.children.length > MOST) list.lastElementChild.remove();
    sift();
  }

  function sift() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kinds = { "": ["fine", "refused", "failed"], troubled: ["refused", "failed"], failed: ["failed"] }[show.value];
    let shown = 0;
    for (const item of list.children) {
      const matches = kinds.includes(item.className) && words.every((word) => item.dataset.text.includes(word));
      item.hidden = !matches;
      shown += matches;
    }
    find("none-yet").hidden = list.children.length > 0;
    find("none-match").hidden = shown > 0 || list.children.length === 0;
    newer.hidden = waiting.length === 0;
    newer.textContent = waiting.length === 1 ? "1 newer request" : `${waiting.length}${waiting.length < MOST ? "" : "+"} newer requests`;
  }

  function take(change) {
    if (change.reset) {
      list.replaceChildren();
      waiting = [];
    }
    for (const [id, html] of change.parts ?? []) update(id, html);
    const fresh = (change.requests ?? []).flatMap((html) => [...parsed(html).children]);
    if (fresh.length === 0) return;
    waiting = [...fresh, ...waiting].slice(0, MOST);
    if (isHeld()) sift();
    else release();
  }

  function say(state, words) {
    link.dataset.link = state;
    link.textContent = words;
  }

  function connect() {
    const events = new EventSource(`api/events?after=${encodeURIComponent(document.body.dataset.token)}`);
    events.onopen = () => say("live", "live");
    events.onmessage = (event) => {
      document.body.dataset.token = event.lastEventId;
      take(JSON.parse(event.data));
    };
    events.onerror = () => {
      say("lost", "connection lost, trying again");
      // The browser tries again by itself, unless it was given an answer that is no stream.
      if (events.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
    };
  }

  filter.addEventListener("input", sift);
  show.addEventListener("change", sift);
  newer.addEventListener("click", release);
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (!isHeld()) release();
  });
  // `toggle` does not bubble; closing the last open row lets the list go on.
  list.addEventListener("toggle", () => { if (!isHeld() && waiting.length > 0) release(); }, true);
  level?.addEventListener("change", async () => {
    const answer = await fetch(`api/log-level?level=${encodeURIComponent(level.value)}`, { method: "PUT" });
    level.title = await answer.text();
    level.classList.toggle("refused", !answer.ok);
  });

  localize(document);
  sift();
  connect();
})();
