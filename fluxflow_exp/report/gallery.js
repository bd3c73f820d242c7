// The slider over time: all runs show what they had drawn at one moment.
(() => {
  document.getElementById("no-script").remove();
  const data = JSON.parse(document.getElementById("gallery").textContent);
  if (!data) return;
  const slider = document.getElementById("moment"), when = document.getElementById("when");
  const play = document.getElementById("play"), frames = document.getElementById("frames");
  const make = (name, parent, text, kind) => {
    const element = document.createElement(name);
    if (text) element.textContent = text;
    if (kind) element.className = kind;
    if (parent) parent.append(element);
    return element;
  };
  frames.classList.toggle("many", data.runs.length > 1);

  function strip(row, name, at, parent) {
    const holder = make("div", parent, "", "strip");
    if (row.label) make("p", holder, row.label);
    const tiles = make("div", holder);
    row.items.forEach((item, index) => {
      const tile = make("figure", tiles), image = make("img", tile);
      image.src = data.images[item.i];
      image.alt = `${item.c || `${row.label} ${index + 1}`}, ${name} after ${at}`;
      if (data.small[item.i]) image.className = "small";
      if (item.c) make("figcaption", tile, item.c);
    });
  }

  function show() {
    const key = data.keys[+slider.value], moment = `${key.step}, update ${key.update.toLocaleString("en")}`;
    when.textContent = `${moment} (epoch ${key.epoch})`;
    slider.setAttribute("aria-valuetext", moment);
    frames.replaceChildren();
    for (const run of data.runs) {
      const number = run.at[+slider.value], frame = number === null ? null : run.frames[number];
      const holder = make("div", frames);
      if (data.runs.length > 1) {
        const title = make("h3", holder, run.name);
        if (frame && frame.update !== key.update) make("small", title, ` at update ${frame.update.toLocaleString("en")}`);
      }
      if (frame && frame.drawn) make("p", holder, frame.drawn, "note");
      if (!frame) make("p", holder, "no pictures until then", "nothing");
      else for (const row of frame.rows) strip(row, run.name, `update ${frame.update} of ${frame.step}`, holder);
    }
  }

  let timer = null;
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (+slider.value === data.keys.length - 1) slider.value = 0;
    show();
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      slider.value = +slider.value + 1;
      show();
      if (+slider.value === data.keys.length - 1) stop();
    }, 500);
  });
  slider.addEventListener("input", () => { stop(); show(); });
  show();
})();
