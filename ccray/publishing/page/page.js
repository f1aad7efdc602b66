// The attribution page: looks through files of rows one after the other and shows what it finds.
// Titles, names and addresses come from strangers: they are only ever set as text, and only http(s) addresses become links.
"use strict";

const SHOWN = 50; // results before it waits for "Show more"
const FILES_PER_FOLDER = 1000;
const NAMES = ["Title", "Author", "Source", "Licence", "Credit"];

let index = null; // {title, rows, files, licenses: [[spdx, url]], patterns}
let search = null; // the search that is going on; another one replaces it
const waiting = new Map(); // number of a file -> what takes its rows
const byId = (id) => document.getElementById(id);

// index.js and rows/*.js call these.
function ccrayIndex(value) {
  index = value;
  const select = byId("license");
  index.licenses.map(([spdx]) => spdx || "not stated").sort().filter((one, i, all) => one !== all[i - 1]).forEach((spdx) => {
    select.append(element("option", spdx, { value: spdx }));
  });
  addEventListener("hashchange", fromAddress);
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    toAddress();
    begin();
  });
  byId("license").addEventListener("change", () => byId("search").requestSubmit());
  byId("more").addEventListener("click", goOn);
  fromAddress();
}

function ccrayRows(number, rows) {
  const take = waiting.get(number);
  waiting.delete(number);
  if (take) take(rows);
}

function load(number) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    waiting.set(number, resolve);
    const folder = String(Math.floor(number / FILES_PER_FOLDER)).padStart(3, "0");
    script.src = `rows/${folder}/${String(number).padStart(6, "0")}.js`;
    script.onerror = () => reject(new Error(script.getAttribute("src")));
    script.onload = () => script.remove();
    document.head.append(script);
  });
}

function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  byId("q").value = asked.get("q") || "";
  byId("license").value = asked.get("license") || "";
  begin();
}

function toAddress() {
  const asked = new URLSearchParams();
  for (const name of ["q", "license"]) if (byId(name).value) asked.set(name, byId(name).value);
  history.replaceState(null, "", `#${asked}`);
}

function plain(text) {
  return text.normalize("NFKC").toLowerCase();
}

function begin() {
  const text = plain(byId("q").value.trim());
  const key = /^(?:[0-9a-f]{16}|[0-9a-f]{64})$/.test(text) ? text.slice(0, 16) : null;
  const first = key === null ? 0 : Number((BigInt(`0x${key}`) * BigInt(index.files)) >> 64n);
  search = {
    key, words: text.split(/\s+/).filter(Boolean), license: byId("license").value,
    file: first, last: key === null ? index.files - 1 : first, rows: [], at: 0, found: 0, seen: 0, limit: 0,
  };
  byId("rows").replaceChildren();
  byId("results").hidden = true;
  goOn();
}

async function goOn() {
  const mine = search;
  mine.limit += SHOWN;
  byId("more").hidden = true;
  while (mine.found < mine.limit && (mine.at < mine.rows.length || mine.file <= mine.last)) {
    if (mine.at >= mine.rows.length) {
      tell(mine, true);
      try {
        mine.rows = await load(mine.file);
      } catch (error) {
        if (mine === search) byId("status").textContent = `${error.message} cannot be read: the page is incomplete; copy the whole folder again.`;
        return;
      }
      if (mine !== search) return;
      mine.file += 1;
      mine.at = 0;
    }
    show(mine);
  }
  tell(mine, false);
}

function show(mine) {
  const fragment = document.createDocumentFragment();
  while (mine.at < mine.rows.length && mine.found < mine.limit) {
    const row = mine.rows[mine.at];
    mine.at += 1;
    mine.seen += 1;
    if (!fits(mine, row)) continue;
    mine.found += 1;
    fragment.append(line(row));
  }
  byId("rows").append(fragment);
  byId("results").hidden = mine.found === 0;
}

function fits(mine, row) {
  if (mine.key !== null) return row[0] === mine.key;
  const all = [origin(row.slice(1, 7)), ...(row[7] || []).map(origin)];
  if (mine.license && !all.some((one) => (one.license || "not stated") === mine.license)) return false;
  if (mine.words.length === 0) return true;
  const text = plain([row[0], ...all.flatMap((one) => [one.title, one.creator, one.source, one.source_url, one.license])].filter(Boolean).join(" "));
  return mine.words.every((word) => text.includes(word));
}

function tell(mine, busy) {
  const left = !busy && (mine.at < mine.rows.length || mine.file <= mine.last);
  const found = `${mine.found.toLocaleString("en")} ${mine.found === 1 ? "image" : "images"}`;
  const of = index.rows.toLocaleString("en");
  const everything = mine.key === null && mine.words.length === 0 && !mine.license;
  byId("status").textContent = busy && mine.found === 0 ? `Searching ${of} images …`
    : everything ? `${mine.found.toLocaleString("en")} of ${of} images shown.`
    : left || busy ? `${found} found so far; ${mine.seen.toLocaleString("en")} of ${of} looked through.`
    : mine.key !== null ? (mine.found ? "1 image has this key." : "No image of this dataset has this key.")
    : `${found} found among ${of}.`;
  byId("progress").hidden = !busy;
  byId("progress").value = index.rows ? mine.seen / index.rows : 1;
  byId("more").textContent = everything || !left ? "Show more" : "Search on";
  byId("more").hidden = !left;
}

function origin(values) {
  const [title, creator, creator_url, source, source_url, number] = values;
  const [license, license_url] = index.licenses[number];
  return { title, creator, creator_url, source, source_url, license, license_url };
}

function line(row) {
  const one = origin(row.slice(1, 7));
  const copies = row[7] || [];
  const tr = element("tr", null, { role: "row", id: `image-${row[0]}` });
  const title = element("span", null, { class: "clamp" });
  title.append(linked(one.title || "untitled", one.source_url, !one.title));
  const cells = [
    title,
    linked(one.creator || "not named", one.creator_url, !one.creator),
    element("span", one.source || "not stated", one.source ? {} : { class: "quiet" }),
    linked(one.license || "not stated", one.license_url, !one.license),
    credit(row[0], one, copies.map(origin)),
  ];
  cells.forEach((content, i) => {
    const td = element("td", null, { role: "cell", "data-name": NAMES[i] });
    td.append(content);
    tr.append(td);
  });
  return tr;
}

function credit(key, one, copies) {
  const details = element("details");
  details.append(element("summary", copies.length ? `Credit, and ${copies.length} ${copies.length === 1 ? "copy" : "copies"}` : "Credit"));
  const paragraph = element("p");
  paragraph.append(...sentence(one));
  details.append(paragraph);
  if (copies.length) {
    const list = element("ul");
    copies.forEach((copy) => {
      const item = element("li", "Copy: ");
      item.append(...sentence(copy));
      list.append(item);
    });
    details.append(list);
  }
  const place = element("p", "Key ", { class: "quiet" });
  place.append(element("code", key));
  details.append(place);
  return details;
}

// The sentence of ccray.publishing.credit: its wording comes with index.js.
function sentence(one) {
  const free = /^(CC0|CC-PDM|CC-PDDC)/.test(one.license || "");
  const pattern = index.patterns[[one.creator, one.source, free].map((value) => (value ? "1" : "0")).join("")];
  const parts = {
    work: linked(one.title ? `“${one.title}”` : "This work", one.source_url),
    creator: linked(one.creator || "", one.creator_url),
    source: linked(one.source || "", null),
    license: linked(one.license || "an unstated licence", one.license_url),
  };
  return pattern.split(/\{(\w+)\}/).map((piece, i) => (i % 2 ? parts[piece] : piece));
}

function linked(words, url, quiet) {
  const text = element("bdi", words, quiet ? { class: "quiet" } : {});
  if (!url || !/^https?:\/\//i.test(url)) return text;
  const link = element("a", null, { href: url, rel: "noopener noreferrer nofollow" });
  link.append(text);
  return link;
}

function element(name, text, attributes) {
  const made = document.createElement(name);
  if (text !== null && text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  return made;
}
