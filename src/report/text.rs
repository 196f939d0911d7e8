//! The report for people at a terminal: what went wrong first, then numbers,
//! then the timeline.
//!
//! Two bounds hold whatever the report contains: no line is wider than
//! 80 columns, and no list is longer than 16 rows, however many cores, hooks
//! or stragglers there are. What is left out is counted, and it is always
//! what tells least. There are no colours, so that the text is the same in a
//! log. A stop at which nothing was open takes three lines.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::fmt;

use super::page::{Page, ROWS};
use super::reasons::{headline, sum};
use super::words::{columns, duration, exact, fit, fit_end, left, plural, right};
use super::{
    CoreOutcome, CoreReport, HookOutcome, HookReport, NoGate, PolicyReport, Report, Straggler,
    Verdict, table, timeline,
};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut page = Page::default();
        page.line(&headline(self));
        page.reasons(self);
        page.phases(self);
        if nothing_happened(self) {
            page.labelled("cores", &idle_cores(self));
            page.served(self);
        } else {
            page.served(self);
            page.counters(self);
            page.turns(&self.cores);
            page.listeners(&self.cores);
            let shown = telling(&self.cores, weight_of_core);
            for part in table::parts(&self.cores, &shown) {
                page.block(&part);
            }
            page.block(&timeline::lines(self, &shown));
            page.left_out(self.cores.len() - shown.len(), "cores, in the sums only");
            page.hooks(self);
            page.stragglers(self);
        }
        f.write_str(page.written())
    }
}

/// The parts of the page, in the order in which they stand on it.
impl Page {
    fn phases(&mut self, report: &Report) {
        let spans = report
            .phases
            .iter()
            .filter(|span| span.end_ms > span.start_ms);
        let words: Vec<String> = spans
            .map(|span| {
                let why = match span.ended_by.as_str() {
                    "" | "goal" => String::new(),
                    other => format!(" ({})", fit(other, 20)),
                };
                let name = fit(&span.name, 20);
                format!("{name} {}{why}", duration(span.end_ms - span.start_ms))
            })
            .collect();
        if !words.is_empty() {
            self.labelled("phases", &words.join(", "));
        }
    }

    /// What the runtime did in its life, in a line.
    fn served(&mut self, report: &Report) {
        let cores = &report.cores;
        let words = nonzero(&[
            (
                sum(cores, |core| core.connections.accepted_total),
                "connection",
            ),
            (sum(cores, |core| core.requests.begun), "request"),
        ]);
        if !words.is_empty() {
            self.labelled("served", &format!("{} since the start", words.join(", ")));
        }
    }

    /// The counters that are of no interest core by core.
    fn counters(&mut self, report: &Report) {
        let cores = &report.cores;
        let total = |field: fn(&CoreReport) -> u64| sum(cores, field);
        let background = total(|core| core.tasks.background_dropped);
        let dropped = match background {
            0 => "dropped".to_owned(),
            n => format!("dropped ({} in the background)", exact(n)),
        };
        self.counted(
            "tasks",
            &[
                (total(|core| core.tasks.spawned), "spawned"),
                (total(|core| core.tasks.completed), "completed"),
                (total(|core| core.tasks.cancelled), "cancelled"),
                (total(|core| core.tasks.panicked), "panicked"),
                (total(|core| core.tasks.dropped), &dropped),
                (total(|core| core.tasks.rejected), "rejected"),
            ],
        );
        self.counted(
            "timers",
            &[
                (total(|core| core.timers.fired), "fired"),
                (total(|core| core.timers.cancelled), "cancelled"),
            ],
        );
        self.counted(
            "letters",
            &[
                (total(|core| core.letters.sent), "sent by cores"),
                (report.foreign_letters.into(), "sent from outside"),
                (total(|core| core.letters.handled), "handled"),
                (total(|core| core.letters.returned), "returned"),
            ],
        );
    }

    /// How many turns the stop took, and for how long one of them kept the others waiting.
    fn turns(&mut self, cores: &[CoreReport]) {
        let count = sum(cores, |core| core.turns.count);
        // The greater of the two, so that what is no number at all is passed over.
        let longest_ms = cores
            .iter()
            .map(|core| core.turns.longest_ms)
            .fold(0.0, f64::max);
        if count > 0 {
            let (count, longest) = (exact(count), duration(longest_ms));
            self.labelled("turns", &format!("{count} in the stop, at most {longest}"));
        }
    }

    /// One line of counters, less the zeros; no line if all are zero.
    fn counted(&mut self, label: &str, counters: &[(u128, &str)]) {
        let words: Vec<String> = counters
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{} {what}", exact(*n)))
            .collect();
        if !words.is_empty() {
            self.labelled(label, &words.join(", "));
        }
    }

    /// Each address with its gate. Cores that share an address share a line.
    fn listeners(&mut self, cores: &[CoreReport]) {
        let mut by_address: Vec<(String, f64, u128)> = Vec::new();
        for listener in cores.iter().flat_map(|core| &core.listeners) {
            let gate = listener
                .no_gate
                .map_or(listener.gate.words(), NoGate::words);
            let mut key = format!("{} {gate}", fit_end(&listener.addr, 41));
            if let Some(policy) = &listener.policy {
                key.push_str(&policy_words(policy));
            }
            let known = by_address.iter_mut().find(|(seen, ..)| *seen == key);
            match known {
                Some((_, window_ms, drained)) => {
                    *window_ms = window_ms.max(listener.window_ms);
                    *drained += u128::from(listener.drained);
                }
                None => by_address.push((key, listener.window_ms, listener.drained.into())),
            }
        }
        let lines: Vec<String> = by_address
            .into_iter()
            .map(|(key, window_ms, drained)| {
                let window = if window_ms > 0.0 {
                    format!(", window {}", duration(window_ms))
                } else {
                    String::new()
                };
                format!("{key}{window}, {} from the backlog", exact(drained))
            })
            .collect();
        self.list("listeners", &lines);
    }

    /// Hooks core by core, then those of the process; that is their order.
    fn hooks(&mut self, report: &Report) {
        let rows = hook_rows(report);
        if rows.is_empty() {
            return;
        }
        let shown = telling(&rows, |row| weight_of_hook(row.hook));
        let name_width = widest(shown.iter().map(|&i| rows[i].hook.name.as_str()), 34);
        let place_width = widest(shown.iter().map(|&i| rows[i].place.as_str()), 12);
        self.block(&["hooks".to_owned()]);
        for &i in &shown {
            let HookRow { hook, place, alike } = &rows[i];
            let most = if *alike > 1 { " at most" } else { "" };
            self.line(&format!(
                "  {}  {}  {}  {}{most}",
                left(hook.outcome.word(), 8),
                left(&fit(&hook.name, name_width), name_width),
                left(&fit(place, place_width), place_width),
                right(&duration(hook.elapsed_ms), 9),
            ));
            self.indented(12, hook.error.as_deref().unwrap_or_default());
        }
        self.left_out(rows.len() - shown.len(), "hooks");
    }

    fn stragglers(&mut self, report: &Report) {
        let on = |core| move |straggler| (core, straggler);
        let of_cores = report
            .cores
            .iter()
            .flat_map(|core| core.stragglers.iter().map(on(Some(core.core))));
        let of_none = report.stragglers.iter().map(on(None));
        let all: Vec<(Option<usize>, &Straggler)> = of_none.chain(of_cores).collect();
        if all.is_empty() {
            return;
        }
        let shown = &all[..all.len().min(ROWS)];
        let kind_width = widest(shown.iter().map(|(_, s)| s.kind.as_str()), 10);
        let name_width = widest(shown.iter().map(|(_, s)| s.name.as_str()), 24);
        self.block(&["stragglers".to_owned()]);
        for (core, straggler) in shown {
            let core = core.map_or_else(|| "-".to_owned(), |core| core.to_string());
            let begin = format!(
                "  core {}  {}  {}  ",
                left(&fit(&core, 5), 2),
                left(&fit(&straggler.kind, kind_width), kind_width),
                left(&fit(&straggler.name, name_width), name_width),
            );
            self.beside(&begin, &straggler_words(straggler));
        }
        self.left_out(all.len() - shown.len(), "stragglers");
    }
}

/// A row of the list of hooks.
struct HookRow<'a> {
    /// The hook; of several that are alike, the one that took longest.
    hook: &'a HookReport,
    /// Where it ran: a core, so many cores, or the process.
    place: String,
    /// How many hooks the row stands for, at least one.
    alike: u64,
}

/// One row for each hook, but only one for hooks of the same name that
/// succeeded on several cores: mostly each core registers the same.
fn hook_rows(report: &Report) -> Vec<HookRow<'_>> {
    let mut rows: Vec<HookRow<'_>> = Vec::new();
    for core in &report.cores {
        for hook in &core.hooks {
            let alike = |row: &&mut HookRow<'_>| {
                (hook.outcome, row.hook.outcome) == (HookOutcome::Ok, HookOutcome::Ok)
                    && row.hook.name == hook.name
            };
            if let Some(row) = rows.iter_mut().find(alike) {
                row.alike += 1;
                row.place = format!("{} times", row.alike);
                if hook.elapsed_ms > row.hook.elapsed_ms {
                    row.hook = hook;
                }
                continue;
            }
            rows.push(HookRow {
                hook,
                place: format!("core {}", core.core),
                alike: 1,
            });
        }
    }
    rows.extend(report.hooks.iter().map(|hook| HookRow {
        hook,
        place: "process".to_owned(),
        alike: 1,
    }));
    rows
}

/// What it did, and where it was spawned.
pub(super) fn straggler_words(straggler: &Straggler) -> String {
    let site = straggler.spawned_at.as_ref();
    let site = site.map(|site| format!("spawned at {}", fit_end(site, 60)));
    let detail = Some(straggler.detail.clone()).filter(|detail| !detail.is_empty());
    let words: Vec<String> = detail.into_iter().chain(site).collect();
    words.join(", ")
}

/// What a listener does otherwise than the runtime: `, spread over 5 s, linger 100 ms`.
fn policy_words(policy: &PolicyReport) -> String {
    let cut = policy.cut.then(|| ", cut".to_owned());
    let time = |what: &str, ms: Option<f64>| ms.map(|ms| format!(", {what} {}", duration(ms)));
    let words = [
        cut,
        time("idle grace", policy.idle_grace_ms),
        time("spread over", policy.spread_ms),
        time("linger", policy.linger_ms),
    ];
    words.into_iter().flatten().collect()
}

/// No connection, no hook, nothing lost or turned away: a line says it all.
fn nothing_happened(report: &Report) -> bool {
    let idle = |core: &CoreReport| {
        core.connections.at_start == 0
            && core.connections.accepted == 0
            && core.hooks.is_empty()
            && core.timers.cancelled == 0
            && core.tasks.panicked == 0
            && core.tasks.rejected == 0
            && core.letters.returned == 0
    };
    report.verdict == Verdict::Clean && report.hooks.is_empty() && report.cores.iter().all(idle)
}

fn idle_cores(report: &Report) -> String {
    match report.cores.len() {
        0 => "none had started".to_owned(),
        1 => "1 was idle: no connection was open, none came".to_owned(),
        n => format!("{n} were idle: no connection was open, none came"),
    }
}

/// The indices of the rows that tell most, at most [`ROWS`], in their order.
fn telling<T, W: Ord>(rows: &[T], weight: fn(&T) -> W) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..rows.len()).collect();
    // The sort is stable: among equals, the first rows stay.
    indices.sort_by_key(|&i| Reverse(weight(&rows[i])));
    indices.truncate(ROWS);
    indices.sort_unstable();
    indices
}

/// Trouble first, then the cores that had most to do for the stop.
fn weight_of_core(core: &CoreReport) -> (bool, u128, u128) {
    let connections = &core.connections;
    let lost = u128::from(connections.forced)
        + u128::from(connections.abandoned)
        + u128::from(core.bytes.unsent)
        + u128::from(core.bytes.unacked)
        + u128::from(core.ops.leaked)
        + core.stragglers.len() as u128;
    let load = u128::from(connections.at_start) + u128::from(connections.accepted);
    (core.outcome != CoreOutcome::Finished, lost, load)
}

/// Those that did not succeed first; then the longest, in whole microseconds.
fn weight_of_hook(hook: &HookReport) -> (bool, u64) {
    (
        hook.outcome != HookOutcome::Ok,
        (hook.elapsed_ms * 1e3) as u64,
    )
}

/// The width of a column of names that is nowhere wider than `limit`.
fn widest<'a>(names: impl Iterator<Item = &'a str>, limit: usize) -> usize {
    names.map(columns).max().unwrap_or(0).min(limit)
}

/// `1 connection`, `7 requests`: those that are not zero.
fn nonzero(things: &[(u128, &str)]) -> Vec<String> {
    let counted = things.iter().filter(|(n, _)| *n > 0);
    counted.map(|(n, thing)| plural(*n, thing)).collect()
}
