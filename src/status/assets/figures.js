// Numbers as people read them, and the history as it comes in.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(number) {
  let unit = 0;
  while (number >= 1024 && unit < UNITS.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${short(number)} ${UNITS[unit]}`;
}

/** A count, exact where it is short. */
export function count(number) {
  if (number < 100_000) return number.toLocaleString("en");
  if (number < 1e6) return `${short(number / 1e3)} k`;
  if (number < 1e9) return `${short(number / 1e6)} M`;
  return `${short(number / 1e9)} G`;
}

export function exact(number) {
  return number.toLocaleString("en");
}

export function rate(perSecond) {
  if (perSecond <= 0) return "0/s";
  return perSecond < 10 ? `${perSecond.toFixed(1)}/s` : `${count(Math.round(perSecond))}/s`;
}

export function percent(number) {
  return `${number < 10 ? number.toFixed(1) : Math.round(number)} %`;
}

function short(number) {
  return number < 10 && !Number.isInteger(number) ? number.toFixed(1) : Math.round(number).toString();
}

/** The two largest units. */
export function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function plural(number, word) {
  return `${exact(number)} ${word}${number === 1 ? "" : "s"}`;
}

const SIGNALS = {
  1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
  11: "SIGSEGV", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 31: "SIGSYS",
};

export function exit(how) {
  if (how === null) return "";
  if (how === "NeverStarted") return "it could not be executed";
  if (how === "Unknown") return "it ended, nobody knows how";
  if ("Code" in how) return `it ended with code ${how.Code}`;
  return `it was ended by ${SIGNALS[how.Signal] ?? `signal ${how.Signal}`}`;
}

export function sum(items, of) {
  return items.reduce((total, item) => total + of(item), 0);
}

/** Samples of several series added up, newest with newest. */
export function together(series) {
  const length = Math.max(0, ...series.map((one) => one.length));
  const total = new Array(length).fill(0);
  for (const one of series) {
    const shift = length - one.length;
    one.forEach((value, at) => (total[at + shift] += value ?? 0));
  }
  return total;
}

/** Everything sampled so far, of which each answer brings only what is new. */
export class History {
  #series = new Map();
  #count = null;
  #epoch = null;
  capacity = 120;

  /** What to ask for next. */
  get since() {
    return this.#count;
  }

  /** Takes what came; false when it does not continue what is here, and all has to be asked for again. */
  take(extract, supervisor) {
    const epoch = `${supervisor.epoch}/${supervisor.pid}`;
    if (!extract.whole && epoch !== this.#epoch) {
      this.#count = null;
      return false;
    }
    this.#epoch = epoch;
    this.#count = extract.count;
    this.capacity = extract.capacity;
    const before = extract.whole ? new Map() : this.#series;
    this.#series = new Map();
    const append = (key, samples) => {
      this.#series.set(key, [...(before.get(key) ?? []), ...samples].slice(-this.capacity));
    };
    for (const [id, series] of Object.entries(extract.instances)) {
      append(`cpu ${id}`, series.cpu_percent);
      append(`memory ${id}`, series.memory_bytes);
    }
    for (const [herd, channels] of Object.entries(extract.channels)) {
      for (const [channel, samples] of Object.entries(channels)) append(channelKey(herd, channel), samples);
    }
    return true;
  }

  cpu(id) {
    return this.#series.get(`cpu ${id}`) ?? [];
  }

  memory(id) {
    return this.#series.get(`memory ${id}`) ?? [];
  }

  rate(herd, channel) {
    return this.#series.get(channelKey(herd, channel)) ?? [];
  }
}

function channelKey(herd, channel) {
  return `rate ${JSON.stringify([herd, channel])}`;
}
