// The texts of the page in the language of its address (/zh/ or /en/), from zhiyin/serve/ui_words.py.

export const language = location.pathname.startsWith("/zh") ? "zh" : "en";
const response = await fetch(`/ui/words/${language}.json`);
const texts = response.ok ? await response.json() : {};

/** A text; `{name}` in it becomes `values.name`. A key that is missing shows itself. */
export function say(key, values = {}) {
  return (texts[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** How a label of a model is shown: in the language of the page where it is known, else as it is. */
export function labelName(label) {
  return texts[`label_${label}`] ?? label;
}

/** The name of a language code, from the browser. */
export function languageName(code) {
  try {
    return new Intl.DisplayNames([language], { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}

document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
