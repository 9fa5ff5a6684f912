(() => {
  "use strict";
  const EVERY = 3000;
  const arrived = location.href;
  const main = document.getElementById("main");
  const skew = Date.parse(document.body.dataset.now) - Date.now();
  let tag = document.body.dataset.tag;

  const rough = (seconds) => {
    const parts = [];
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
      parts.push([Math.floor(seconds / size), unit]);
      seconds %= size;
    }
    const first = Math.max(0, parts.findIndex(([count]) => count));
    return parts.slice(parts.some(([count]) => count) ? first : 3).slice(0, 2)
      .filter(([count, unit]) => count || unit === "s").map(([count, unit]) => `${count} ${unit}`).join(" ");
  };
  const tick = () => {
    const now = Date.now() + skew;
    for (const time of document.querySelectorAll("time[data-rel]")) {
      const span = Math.round((Date.parse(time.dateTime) - now) / 1000);
      const words = span === 0 ? "now" : rough(Math.abs(span));
      time.textContent = span === 0 || time.dataset.rel === "bare" ? words : span > 0 ? `in ${words}` : `${words} ago`;
    }
  };

  // What somebody is using is left alone until they have done with it.
  const isBusy = (part) => part.querySelector("details.menu[open]") !== null;
  const stops = (part) => [...part.querySelectorAll("a, button, summary, input, select, [tabindex]")];
  const renew = (part, other) => {
    const focused = stops(part).indexOf(document.activeElement);
    const opened = [...part.querySelectorAll("details")].map((fold) => fold.open);
    const fresh = document.adoptNode(other);
    fresh.querySelectorAll("details").forEach((fold, place) => { fold.open = opened[place] || false; });
    part.replaceWith(fresh);
    if (focused >= 0 && stops(fresh)[focused]) stops(fresh)[focused].focus({ preventScroll: true });
  };
  // What a press did is said in the address, until the end of this script: else it would be news again when
  // somebody loads the page anew. When the page does so itself, it still is.
  const reload = () => {
    history.replaceState(null, "", arrived);
    location.reload();
  };
  const take = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    const parts = [...main.querySelectorAll("[data-live]")];
    const others = parts.map((part) => fresh.getElementById(part.id));
    // Parts have come or gone: that is another page.
    if (others.includes(null) || fresh.querySelectorAll("[data-live]").length !== parts.length) {
      if (!parts.some(isBusy)) reload();
      return false;
    }
    let all = true;
    parts.forEach((part, place) => {
      if (isBusy(part)) all = false;
      else renew(part, others[place]);
    });
    tick();
    return all;
  };
  const poll = async () => {
    if (document.hidden) return;
    const address = new URL(location.href);
    address.searchParams.set("part", "live");
    address.searchParams.delete("did");
    const answer = await fetch(address, { headers: { "If-None-Match": tag }, cache: "no-store", redirect: "error" });
    main.classList.toggle("stale", !answer.ok && answer.status !== 304);
    if (answer.status === 404) location.reload();
    if (answer.status === 200) {
      const all = take(await answer.text());
      tag = all ? answer.headers.get("ETag") : tag;
    }
  };
  let pending = false;
  const turn = () => {
    if (pending) return;
    pending = true;
    poll().catch(() => main.classList.add("stale")).finally(() => { pending = false; });
  };

  if (main && document.body.dataset.live) {
    setInterval(turn, EVERY);
    document.addEventListener("visibilitychange", turn);
  }
  setInterval(tick, 1000);
  document.addEventListener("keydown", (event) => {
    const open = event.key === "Escape" && document.querySelector("details.menu[open]");
    if (open) { open.open = false; open.querySelector("summary").focus(); }
  });
  // Whoever gives a time means it, whatever is chosen in the list above it.
  document.addEventListener("input", (event) => {
    if (event.target.name === "until") event.target.form.elements.for.value = "until";
  });
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  const here = new URL(location.href);
  if (here.searchParams.has("did")) {
    here.searchParams.delete("did");
    here.searchParams.delete("of");
    history.replaceState(null, "", here);
  }
})();
