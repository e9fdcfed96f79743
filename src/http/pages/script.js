// What pages do better with a script: copy buttons, and parts that change by themselves.
// Without it every page works: buttons stay hidden, and a page looks again by itself.
"use strict";
(() => {
  const said = document.getElementById("said");
  const say = (text) => { if (said) said.textContent = text; };

  const showCopyButtons = (within) => {
    for (const button of within.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
  };
  showCopyButtons(document);
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    const source = button && document.getElementById(button.dataset.copy);
    if (!source) return;
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
      say("Copied");
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  const live = () => document.querySelectorAll("[data-live][id]");
  if (!live().length) return;
  let busy = false, again = false;

  // Somebody who is in a part with the keyboard or has marked something in it keeps it as it is.
  const isInUse = (part) => {
    const selection = getSelection();
    return part.contains(document.activeElement) ||
      (!selection.isCollapsed && part.contains(selection.anchorNode));
  };
  const renew = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (answer.redirected) { location.reload(); return; }
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of live()) {
        const next = fresh.getElementById(part.id);
        next?.querySelectorAll("details").forEach((details, at) => {
          details.open = part.querySelectorAll("details")[at]?.open ?? false;
        });
        if (next && !isInUse(part) && next.innerHTML !== part.innerHTML) {
          part.replaceWith(document.adoptNode(next));
          showCopyButtons(next);
        }
      }
    } catch { /* The next news tries again. */ } finally {
      busy = false;
      if (again) { again = false; renew(); }
    }
  };

  let available = null, timer = null, feed = null;
  const listen = () => {
    if (feed || document.hidden) return;
    feed = new EventSource("/account/live");
    feed.addEventListener("change", (event) => {
      const news = JSON.parse(event.data);
      if (available !== null && news.available !== null && news.available !== available) {
        say(`${news.available} credits available`);
      }
      available = news.available;
      renew();
    });
    feed.addEventListener("end", () => { feed.close(); location.reload(); });
    feed.addEventListener("error", () => {
      // No place to listen: look now and then instead.
      if (feed?.readyState === EventSource.CLOSED && !timer) {
        timer = setInterval(() => { if (!document.hidden) renew(); }, 15000);
      }
    });
  };
  // A browser has few connections to a server: pages that nobody sees give theirs back.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { feed?.close(); feed = null; } else { listen(); }
  });
  addEventListener("pagehide", () => { feed?.close(); feed = null; });
  addEventListener("pageshow", listen);
})();
