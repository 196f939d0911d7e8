//! Numbers and names as words of a known width.
//!
//! Names come from users and peers. They may hold line breaks, terminal
//! escapes or marks that turn the direction of writing, so every name passes
//! [`visible`] before it is measured or written.
#![forbid(unsafe_code)]

/// How wide the report may be; no line exceeds it.
pub(super) const WIDTH: usize = 80;

/// How many columns of a terminal a text takes.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

/// Two for the wide scripts and pictures, one for all else. A combining mark
/// counts as one though it takes none: too wide a guess keeps the bound.
fn char_columns(c: char) -> usize {
    match u32::from(c) {
        0x1100..=0x115f
        | 0x231a..=0x231b
        | 0x23e9..=0x23f3
        | 0x25fd..=0x25fe
        | 0x2600..=0x27bf
        | 0x2b1b..=0x2b55
        | 0x2e80..=0xa4cf
        | 0xa960..=0xa97f
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe10..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x16fe0..=0x1b2ff
        | 0x1f000..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The text on one line, with nothing in it that steers a terminal: white
/// space becomes a space, any other control or direction mark a `?`.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_whitespace() => ' ',
            c if c.is_control() || steers(c) => '?',
            c => c,
        })
        .collect()
}

/// Marks that have no width of their own and change how others are shown.
fn steers(c: char) -> bool {
    matches!(
        u32::from(c),
        0xad | 0x61c
            | 0x180e
            | 0x200b..=0x200f
            | 0x202a..=0x202e
            | 0x2060..=0x206f
            | 0xfe00..=0xfe0f
            | 0xfeff
            | 0xfff9..=0xfffb
            | 0xe0000..=0xe0fff
    )
}

/// The text in at most `width` columns; a `…` stands for a lost end.
pub(super) fn fit(text: &str, width: usize) -> String {
    let text = visible(text);
    if columns(&text) <= width {
        return text;
    }
    let kept = prefix_within(text.chars(), width.saturating_sub(1));
    let mut short: String = text.chars().take(kept).collect();
    short.truncate(short.trim_end().len());
    if width > 0 {
        short.push('…');
    }
    short
}

/// As [`fit`], but it is the begin that is lost: of a path the end tells more.
pub(super) fn fit_end(text: &str, width: usize) -> String {
    let text = visible(text);
    if columns(&text) <= width || width == 0 {
        return fit(&text, width);
    }
    let kept = prefix_within(text.chars().rev(), width - 1);
    let lost = text.chars().count() - kept;
    std::iter::once('…')
        .chain(text.chars().skip(lost))
        .collect()
}

/// How many of the characters fit into so many columns.
fn prefix_within(chars: impl Iterator<Item = char>, width: usize) -> usize {
    let mut taken = 0;
    chars
        .take_while(|&c| {
            taken += char_columns(c);
            taken <= width
        })
        .count()
}

/// The text followed by spaces up to `width` columns.
pub(super) fn left(text: &str, width: usize) -> String {
    let spaces = width.saturating_sub(columns(text));
    format!("{text}{}", " ".repeat(spaces))
}

/// The text with spaces before it up to `width` columns.
pub(super) fn right(text: &str, width: usize) -> String {
    let spaces = width.saturating_sub(columns(text));
    format!("{}{text}", " ".repeat(spaces))
}

/// The text broken between words into at most `lines` lines of `width`
/// columns. A word longer than a line is shortened; so is the last line.
pub(super) fn wrap(text: &str, width: usize, lines: usize) -> Vec<String> {
    let text = visible(text);
    let mut wrapped: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            if columns(&line) + 1 + columns(word) > width {
                if wrapped.len() + 1 == lines {
                    wrapped.push(fit(&format!("{line} {word}"), width));
                    return wrapped;
                }
                wrapped.push(std::mem::take(&mut line));
            } else {
                line.push(' ');
            }
        }
        line.push_str(&fit(word, width));
    }
    wrapped.push(line);
    wrapped
}

/// A number with commas: `12,345,678`.
pub(super) fn exact(n: u128) -> String {
    let digits = n.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number in at most nine columns: exact up to 9,999,999, then rounded.
pub(super) fn count(n: u128) -> String {
    if n < 10_000_000 {
        return exact(n);
    }
    scaled(n, [" M", " G", " T", " P", " E"], 1e6)
}

/// An amount of bytes in at most nine columns, in powers of a thousand.
pub(super) fn byte_count(n: u128) -> String {
    if n < 1_000 {
        return format!("{n} B");
    }
    scaled(n, [" kB", " MB", " GB", " TB", " PB", " EB"], 1e3)
}

/// The number with the first unit that leaves less than a thousand of it.
fn scaled<const N: usize>(n: u128, units: [&str; N], first: f64) -> String {
    let mut value = n as f64 / first;
    for unit in units {
        if value < 999.95 {
            return format!("{}{unit}", trimmed(value, 1));
        }
        value /= 1e3;
    }
    format!("{:.1e}", n as f64)
}

/// A number of things: `1 op`, `2 ops`.
pub(super) fn plural(n: u128, thing: &str) -> String {
    let ending = if n == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", exact(n))
}

/// A time span in at most twelve columns.
pub(super) fn duration(ms: f64) -> String {
    if !ms.is_finite() {
        return "?".to_owned();
    }
    let sign = if ms <= -0.000_5 { "-" } else { "" };
    format!("{sign}{}", positive_duration(ms.abs()))
}

/// Three digits that matter, in the unit that suits. The limits lie where the
/// rounding would reach the next unit, so that 59.97 s is one minute.
fn positive_duration(ms: f64) -> String {
    let whole = |unit_ms: f64| (ms / unit_ms).round() as u64;
    let pair = |total: u64, big: &str, small: &str| match (total / 60, total % 60) {
        (n, 0) => format!("{n} {big}"),
        (n, rest) => format!("{n} {big} {rest} {small}"),
    };
    if ms < 0.999_5 {
        format!("{} ms", trimmed(ms, 3))
    } else if ms < 9.995 {
        format!("{} ms", trimmed(ms, 2))
    } else if ms < 999.95 {
        format!("{} ms", trimmed(ms, 1))
    } else if ms < 9_995.0 {
        format!("{} s", trimmed(ms / 1e3, 2))
    } else if ms < 59_950.0 {
        format!("{} s", trimmed(ms / 1e3, 1))
    } else if ms < 3_599_500.0 {
        pair(whole(1e3), "min", "s")
    } else if ms < 172_770_000.0 {
        pair(whole(6e4), "h", "min")
    } else if ms < 8.64e11 {
        format!("{} d", whole(8.64e7))
    } else {
        "over 9,999 d".to_owned()
    }
}

/// With so many decimals, less the zeros at the end.
fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The name of a signal that may trigger a stop.
pub(super) fn signal_name(signal: i32) -> String {
    match signal {
        1 => "SIGHUP".to_owned(),
        2 => "SIGINT".to_owned(),
        3 => "SIGQUIT".to_owned(),
        10 => "SIGUSR1".to_owned(),
        12 => "SIGUSR2".to_owned(),
        15 => "SIGTERM".to_owned(),
        other => format!("signal {other}"),
    }
}
