//! Numbers and names as words.
#![forbid(unsafe_code)]

use crate::report::words::*;

#[test]
fn a_long_name_is_shortened_with_an_ellipsis() {
    assert_eq!(fit("short", 5), "short");
    assert_eq!(fit("too long", 5), "too…");
    assert_eq!(fit("toolong", 5), "tool…");
    assert_eq!(fit("anything", 0), "");
}

#[test]
fn a_path_keeps_its_end() {
    assert_eq!(fit_end("src/net/tcp.rs:7:5", 10), "…cp.rs:7:5");
    assert_eq!(fit_end("a.rs:1", 10), "a.rs:1");
    assert_eq!(fit_end("anything", 0), "");
}

#[test]
fn a_wide_character_is_never_cut_in_half() {
    assert_eq!(fit("データ", 6), "データ");
    assert_eq!(fit("データ", 5), "デー…");
    assert_eq!(fit("データ", 4), "デ…");
    assert_eq!(fit_end("データ", 4), "…タ");
}

#[test]
fn what_steers_a_terminal_is_not_written() {
    assert_eq!(visible("\u{1b}[31m\r\na\tb"), "?[31m  a b");
    assert_eq!(visible("\u{202e}abc\u{200b}"), "?abc?");
}

#[test]
fn a_text_is_wrapped_between_words() {
    assert_eq!(wrap("one two three", 7, 4), ["one two", "three"]);
    assert_eq!(wrap("one  twothree", 7, 4), ["one", "twothr…"]);
    assert_eq!(wrap("a b c d e f", 3, 2), ["a b", "c…"]);
    assert_eq!(wrap("", 7, 4), [""]);
}

#[test]
fn times_have_three_digits_that_matter() {
    for (ms, words) in [
        (0.0, "0 ms"),
        (0.000_4, "0 ms"),
        (0.123, "0.123 ms"),
        (1.0, "1 ms"),
        (2.194, "2.19 ms"),
        (12.312, "12.3 ms"),
        (999.94, "999.9 ms"),
        (999.97, "1 s"),
        (1_250.0, "1.25 s"),
        (9_000.0, "9 s"),
        (12_340.0, "12.3 s"),
        (59_970.0, "1 min"),
        (125_000.0, "2 min 5 s"),
        (3_599_900.0, "1 h"),
        (11_520_000.0, "3 h 12 min"),
        (259_200_000.0, "3 d"),
        (1e300, "over 9,999 d"),
        (-1.5, "-1.5 ms"),
        (f64::NAN, "?"),
        (f64::NEG_INFINITY, "?"),
    ] {
        assert_eq!(duration(ms), words, "{ms}");
    }
}

#[test]
fn numbers_are_exact_to_seven_digits() {
    for (n, words) in [
        (0, "0"),
        (999, "999"),
        (1_000, "1,000"),
        (9_999_999, "9,999,999"),
        (10_000_000, "10 M"),
        (999_960_000, "1 G"),
        (u128::from(u64::MAX), "18.4 E"),
        (u128::MAX, "3.4e38"),
    ] {
        assert_eq!(count(n), words);
    }
    assert_eq!(exact(u128::from(u64::MAX)), "18,446,744,073,709,551,615");
}

#[test]
fn bytes_come_in_powers_of_a_thousand() {
    for (n, words) in [
        (0, "0 B"),
        (999, "999 B"),
        (2_448, "2.4 kB"),
        (999_960, "1 MB"),
        (21_612_030, "21.6 MB"),
        (u128::from(u64::MAX), "18.4 EB"),
    ] {
        assert_eq!(byte_count(n), words);
    }
}

#[test]
fn no_number_is_wider_than_its_column() {
    for shift in 0..128 {
        for n in [u128::MAX >> shift, 1 << shift, 999_949 << (shift % 100)] {
            assert!(columns(&count(n)) <= 9, "{}", count(n));
            assert!(columns(&byte_count(n)) <= 9, "{}", byte_count(n));
        }
    }
}

#[test]
fn signals_that_may_stop_the_runtime_have_names() {
    let names = [15, 2, 3, 1, 10, 12].map(signal_name);
    assert_eq!(
        names,
        [
            "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"
        ]
    );
    assert_eq!(signal_name(34), "signal 34");
}
