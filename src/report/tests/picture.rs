//! The picture: well-formed, bounded and finite, whatever is in the report.
#![forbid(unsafe_code)]

use roxmltree::{Document, Node};

use super::generated::{Dice, SEEDS};
use super::samples;
use crate::report::picture::left_over;

/// What `Report::to_svg` promises.
const MOST_BYTES: usize = 1_000_000;

/// Attributes that hold one number.
const NUMBERS: [&str; 8] = ["x", "y", "x1", "x2", "y1", "y2", "width", "height"];

/// Parses the picture, after all that must hold for each was looked at.
#[track_caller]
fn check(svg: &str) -> Document<'_> {
    assert!(svg.len() < MOST_BYTES, "{} bytes", svg.len());
    let document = Document::parse(svg).expect("the picture is well-formed");
    assert_eq!(document.root_element().tag_name().name(), "svg");
    for node in document.descendants().filter(Node::is_element) {
        assert_ne!(node.tag_name().name(), "script");
        check_numbers(&node);
        for attribute in node.attributes() {
            let value = attribute.value();
            assert!(!value.contains("NaN") && !value.contains("inf"), "{value}");
            assert!(
                attribute.name() == "xmlns" || !value.contains("://"),
                "{value}"
            );
        }
    }
    document
}

#[track_caller]
fn check_numbers(node: &Node<'_, '_>) {
    for name in NUMBERS {
        let Some(value) = node.attribute(name) else {
            continue;
        };
        let number: f64 = value.parse().expect("a number");
        assert!(
            number.is_finite() && number.abs() < 20_000.0,
            "{name}={value}"
        );
        assert!(
            number >= 0.0 || !matches!(name, "width" | "height"),
            "{name}={value}"
        );
    }
}

fn lanes(document: &Document<'_>) -> Vec<String> {
    let lanes = document.descendants();
    lanes
        .filter(|node| node.attribute("class") == Some("lane"))
        .filter_map(|lane| lane.attribute("data-core"))
        .map(str::to_owned)
        .collect()
}

fn words(document: &Document<'_>) -> String {
    let texts = document
        .descendants()
        .filter(|node| node.tag_name().name() == "text");
    let words: Vec<&str> = texts.filter_map(|text| text.text()).collect();
    words.join("\n")
}

#[test]
fn every_generated_report_is_a_well_formed_picture() {
    for seed in 0..SEEDS / 2 {
        let report = Dice::new(seed).report();
        let svg = report.to_svg();
        let document = check(&svg);
        assert_eq!(lanes(&document).len(), report.cores.len(), "seed {seed}");
    }
}

/// The words of each row of what was left over.
fn left_over_rows(document: &Document<'_>) -> Vec<String> {
    let rows = document
        .descendants()
        .filter(|node| node.attribute("class") == Some(left_over::CLASS));
    let words = |row: Node<'_, '_>| {
        let texts = row.descendants().filter_map(|node| node.text());
        texts.map(str::trim).collect::<Vec<_>>().join(" ")
    };
    rows.map(words).collect()
}

#[test]
fn every_generated_picture_names_what_was_left_over_up_to_a_limit() {
    for seed in 0..SEEDS / 10 {
        let report = Dice::new(seed).report();
        let of_cores: usize = report.cores.iter().map(|core| core.stragglers.len()).sum();
        let all = report.stragglers.len() + of_cores;
        let svg = report.to_svg();
        let document = check(&svg);
        let rows = left_over_rows(&document).len();
        assert_eq!(rows, all.min(left_over::ROWS), "seed {seed}");
        let counted = words(&document).contains(&format!("… {} more\n", all - rows));
        assert!(counted || rows == all, "seed {seed}");
    }
}

#[test]
fn a_guard_that_was_held_is_named_before_what_cores_left_over() {
    let mut report = samples::forced();
    let site = Some("src/compaction.rs:7:5");
    let guard = samples::straggler("guard", "nightly", site, "was held");
    report.stragglers.push(guard);
    let svg = report.to_svg();
    let rows = left_over_rows(&check(&svg));
    assert_eq!(rows.len(), 3, "{rows:?}");
    for word in [
        "guard",
        "nightly: was held",
        "src/compaction.rs:7:5",
        "process",
    ] {
        assert!(rows[0].contains(word), "{rows:?}");
    }
    assert!(rows[1].contains("upload") && rows[1].contains("core 0"));
}

#[test]
fn no_name_is_markup_or_steers_the_viewer() {
    let mut report = samples::forced();
    let hostile = "</text><script>\"'&amp;\u{0}\u{1b}[31m\u{202e}\u{fffe}\r\n]]>";
    report.cores[0].hooks[0].name = hostile.to_owned();
    report.cores[0].hooks[1].error = Some(hostile.to_owned());
    report.cores[1].error = Some(hostile.to_owned());
    report.phases[0].name = hostile.to_owned();
    report.phases[0].ended_by = hostile.to_owned();
    let svg = report.to_svg();
    let document = check(&svg);
    assert!(words(&document).contains("</text><script>\"'&"));
    assert!(!svg.contains(|c: char| c.is_control() && c != '\n'));
    assert!(!svg.contains(['\u{202e}', '\u{fffe}']));
}

#[test]
fn there_is_a_lane_for_each_core() {
    for cores in [0, 1, 2, 16, 64, 256] {
        let mut report = samples::wide();
        report.cores = report.cores.iter().cycle().take(cores).cloned().collect();
        for (i, core) in report.cores.iter_mut().enumerate() {
            core.core = i;
        }
        let svg = report.to_svg();
        let numbers: Vec<String> = (0..cores).map(|i| i.to_string()).collect();
        assert_eq!(lanes(&check(&svg)), numbers);
    }
}

#[test]
fn a_time_that_is_no_number_or_endless_draws_nothing_wrong() {
    for odd in [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
        0.0,
        -1.0,
        5e-324,
    ] {
        let mut report = samples::forced();
        for core in &mut report.cores {
            core.open_connections[0].0 = odd;
            core.open_connections[7].0 = odd;
            core.hooks[0].start_ms = odd;
            core.phases[0].end_ms = odd;
        }
        check(&report.to_svg());
        report.cores[0].stuck = samples::stuck().cores.swap_remove(2).stuck;
        report.elapsed_ms = odd;
        report.suspended_ms = odd;
        report.triggers[1].at_ms = odd;
        report.phases[1].start_ms = odd;
        report.hooks[0].elapsed_ms = odd;
        report.deadlines.hooks_ms = odd;
        check(&report.to_svg());
        report.deadlines.hard_ms = odd;
        check(&report.to_svg());
    }
}

#[test]
fn endless_lists_make_no_endless_picture() {
    let mut report = samples::forced();
    let many = |n: u64| (0..n).map(|i| (i as f64, i % 977 * 1_000_003));
    let core = &mut report.cores[0];
    core.open_connections = many(20_000).collect();
    core.hooks = core.hooks.iter().cycle().take(3_000).cloned().collect();
    core.phases = core.phases.iter().cycle().take(3_000).cloned().collect();
    report.cores = report.cores.iter().cycle().take(600).cloned().collect();
    report.triggers = report.triggers.iter().cycle().take(600).cloned().collect();
    report.phases = report.phases.iter().cycle().take(600).cloned().collect();
    let svg = report.to_svg();
    let document = check(&svg);
    assert!(words(&document).contains("… 344 more cores, in the sums only"));
}

#[test]
fn the_title_says_how_it_went_and_by_when() {
    let svg = samples::forced().to_svg();
    let document = check(&svg);
    let words = words(&document);
    assert!(
        words.starts_with("forced · exit 81\nstopped in 4.61 s of 9 s, by SIGTERM"),
        "{words}"
    );
    assert!(words.contains("draining cut by force"), "{words}");
    assert!(words.contains("SIGINT from pid 4242"), "{words}");
    assert!(words.contains("hard deadline 4.61 s"), "{words}");
}

#[test]
fn a_hook_that_failed_says_why_beside_its_bar() {
    let svg = samples::forced().to_svg();
    let words = words(&check(&svg));
    assert!(
        words.contains("failed after 12.4 ms: connection reset by peer"),
        "{words}"
    );
    assert!(words.contains("overran after 900 ms"), "{words}");
    assert!(words.contains("close-database-pool"), "{words}");
}

#[test]
fn the_line_of_open_connections_begins_at_their_number_and_ends_at_none() {
    let report = samples::busy();
    let svg = report.to_svg();
    let document = check(&svg);
    let line = document
        .descendants()
        .find(|node| node.attribute("stroke-linejoin").is_some());
    let path = line.and_then(|line| line.attribute("d")).expect("a line");
    let corner = |words: &str| -> (f64, f64) {
        let (x, y) = words.split_once(' ').expect("two numbers");
        (x.parse().expect("x"), y.parse().expect("y"))
    };
    let corners: Vec<(f64, f64)> = path[1..].split('L').map(corner).collect();
    let (first, last) = (corners[0], corners[corners.len() - 1]);
    assert_eq!(last.1 - first.1, 84.0, "the whole height of the chart");
    assert!(corners.is_sorted_by_key(|corner| corner.0));
    assert!(words(&document).contains("238"), "the most that were open");
}
