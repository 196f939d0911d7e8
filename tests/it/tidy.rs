//! The shape of the sources: imports run one way, unsafe code stays where it
//! belongs and is counted, the library neither prints nor exits, and what `tests/CONTRACT.md`
//! says is shown by a test is.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::promise::promises;

promises![
    imports_run_one_way_down,
    unsafe_code_stays_where_it_belongs,
    the_unsafe_blocks_are_as_many_as_the_architecture_says,
    the_library_neither_prints_nor_exits,
    the_contract_names_tests_that_exist,
    the_faults_name_tests_that_exist,
    whatever_takes_a_number_is_tried_at_its_ends,
];

/// The modules from the top down. A module may import those of a lower rank,
/// and itself; modules of one rank know nothing of each other.
const RANKS: &[(&str, u32)] = &[
    // What users name.
    ("lib", 200),
    ("builder", 190),
    ("runtime", 180),
    // The machinery that drives cores.
    ("faults", 170),
    ("shutdown", 170),
    ("core", 160),
    // What a task may call.
    ("net", 120),
    ("handle", 115),
    ("time", 112),
    ("spawn", 110),
    ("nop", 110),
    ("phases", 105),
    ("stalls", 105),
    ("process", 105),
    // One core's own things.
    ("context", 100),
    ("shared", 90),
    ("board", 85),
    ("guard", 85),
    ("feed", 82),
    ("stall", 82),
    ("remote", 80),
    ("hooks", 80),
    ("mailbox", 70),
    ("io", 60),
    ("task", 50),
    ("ring", 40),
    // Pure ground.
    ("phase", 30),
    ("config", 20),
    ("report", 10),
    ("wheel", 10),
    ("clock", 10),
    ("error", 10),
    ("panics", 10),
    ("kept", 5),
    ("sync", 0),
];

/// Where unsafe code may stand; every other file forbids it.
const UNSAFE: &[&str] = &["ring", "task", "mailbox"];

/// One source file.
struct Source {
    /// Its path below `src`, for messages.
    path: String,
    /// The module right below the crate that it belongs to.
    module: String,
    /// Its text without comments and literals.
    code: String,
    /// Its text as it stands.
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(!files.is_empty(), "no sources in {}", root.display());
    files.sort();
    files.iter().map(|file| read(&root, file)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).expect("the sources can be listed");
    for entry in entries {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
}

fn read(root: &Path, file: &Path) -> Source {
    let text = fs::read_to_string(file).expect("a source is UTF-8");
    let path = file.strip_prefix(root).expect("it is below src");
    let first = path.components().next().expect("a name");
    let module = first.as_os_str().to_string_lossy();
    Source {
        path: path.display().to_string(),
        module: module.trim_end_matches(".rs").to_owned(),
        code: without_words(&text),
        text,
    }
}

/// The code with comments and string literals left out, so that what is only
/// talked about does not count. Line by line, which is enough for sources
/// that `rustfmt` has laid out.
fn without_words(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let mut out = String::new();
        let mut in_string = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if in_string => drop(chars.next()),
                '"' => in_string = !in_string,
                '/' if !in_string && chars.peek() == Some(&'/') => break,
                _ if in_string => {}
                _ => out.push(c),
            }
        }
        out
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules that a file names by `crate::`, alone or in braces.
fn imported(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // Not `$crate::`, and not the end of a longer word.
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c == '$' || c == '_' || c.is_alphanumeric()) {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(heads_of_list(list)),
            None => found.push(head(rest)),
        }
    }
    found
}

/// The first name of a path.
fn head(path: &str) -> String {
    let is_name = |c: char| c == '_' || c.is_alphanumeric();
    path.chars().take_while(|&c| is_name(c)).collect()
}

/// The first names in a list of paths, up to its closing brace.
fn heads_of_list(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut heads = Vec::new();
    let mut begins = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if c.is_whitespace() => {}
            _ => {
                if begins && depth == 0 {
                    heads.push(head(&list[at..]));
                }
                begins = false;
            }
        }
    }
    heads
}

fn imports_run_one_way_down() {
    let ranks: BTreeMap<&str, u32> = RANKS.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(&rank) = ranks.get(source.module.as_str()) else {
            wrong.push(format!("{}: no rank in the table", source.path));
            continue;
        };
        // A name that is no module is an item of the crate's root.
        for name in imported(&source.code) {
            let other = ranks.get(name.as_str()).copied().unwrap_or(u32::MAX);
            if name != source.module && other >= rank && source.module != "lib" {
                wrong.push(format!("{}: imports crate::{name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "against the table:\n{}", wrong.join("\n"));
}

/// Forbidden in a file, or in the module that the file is a part of.
fn forbids_unsafe(path: &str, sources: &[Source]) -> bool {
    let own = |path: &str| {
        let file = sources.iter().find(|source| source.path == path);
        file.is_some_and(|file| file.text.contains("#![forbid(unsafe_code)]"))
    };
    let folder = path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let above = folder.map(|folder| [format!("{folder}.rs"), format!("{folder}/mod.rs")]);
    // A `mod.rs` is its own folder's module; what is above it is one further up.
    let mut above = above.into_iter().flatten().filter(|above| above != path);
    own(path) || above.any(|above| forbids_unsafe(&above, sources))
}

fn unsafe_code_stays_where_it_belongs() {
    let sources = sources();
    let mut wrong = Vec::new();
    for source in &sources {
        let may_use = UNSAFE.contains(&source.module.as_str());
        // The root cannot forbid it for the modules that may.
        if !may_use && source.module != "lib" && !forbids_unsafe(&source.path, &sources) {
            wrong.push(&source.path);
        }
    }
    assert!(wrong.is_empty(), "without forbid(unsafe_code): {wrong:?}");
}

/// By folder and file, tests and what only they use aside.
fn the_unsafe_blocks_are_as_many_as_the_architecture_says() {
    let mut folders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let of_tests = ["tests", "fake", "models"];
    for source in sources() {
        let path = source.path.trim_end_matches(".rs");
        let count = source.code.matches("unsafe {").count();
        if count > 0 && !path.split('/').any(|part| of_tests.contains(&part)) {
            let (folder, file) = path.rsplit_once('/').unwrap_or(("src", path));
            let files = folders.entry(folder.to_owned()).or_default();
            files.push(format!("{file} {count}"));
        }
    }
    let folders = folders.iter();
    let folders = folders.map(|(folder, files)| format!("`{folder}` {}", files.join(", ")));
    let counted = folders.collect::<Vec<_>>().join("; ");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let words: Vec<&str> = page.split_whitespace().collect();
    assert!(
        words.join(" ").contains(&counted),
        "it has to say: {counted}"
    );
}

fn the_library_neither_prints_nor_exits() {
    let words = [
        "println!",
        "print!",
        "eprintln!",
        "eprint!",
        "dbg!",
        "process::exit",
    ];
    let mut wrong = Vec::new();
    for source in sources() {
        for word in words {
            // The whole word: `eprintln!` has `println!` in it.
            let found = source.code.match_indices(word).any(|(at, _)| {
                let before = source.code[..at].chars().next_back();
                !before.is_some_and(|c| c == '_' || c.is_alphanumeric())
            });
            if found {
                wrong.push(format!("{}: {word}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "in the library:\n{}", wrong.join("\n"));
}

/// `limits::extremes` gives each the largest number there is, and none. A call that is new and not in
/// there fails here.
fn whatever_takes_a_number_is_tried_at_its_ends() {
    let tried = text_of("tests/it/limits.rs").expect("the limits");
    let mut calls = 0;
    let mut untried = Vec::new();
    for source in sources() {
        let code = &source.code;
        let starts = code
            .match_indices("pub fn ")
            .chain(code.match_indices("pub async fn "));
        for (at, start) in starts {
            let call = code[at + start.len()..].split([';', '{']).next();
            let (name, rest) = call
                .and_then(|call| call.split_once(['(', '<']))
                .unwrap_or(("", ""));
            let taken = rest.split("->").next().unwrap_or_default();
            let takes = |kind: &&str| taken.contains(&format!(": {kind}"));
            if !NUMBERS.iter().any(takes) {
                continue;
            }
            calls += 1;
            if !tried.contains(&format!("{name}(")) {
                untried.push(format!("{}: {name}", source.path));
            }
        }
    }
    assert!(calls > 20, "only {calls} calls take a number");
    assert!(
        untried.is_empty(),
        "not in limits.rs:\n{}",
        untried.join("\n")
    );
}

/// How a call says that it takes a number or a place.
const NUMBERS: &[&str] = &[
    "Duration",
    "Option<Duration>",
    "usize",
    "u64",
    "u32",
    "u16",
    "i32",
    "impl RangeBounds<usize>",
    "impl IntoIterator<Item = i32>",
];

/// The file of the repository with this path.
fn text_of(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// Every second part of `text` between two of `mark`, and the rest.
fn quoted(text: &str, mark: char) -> (Vec<&str>, String) {
    let (mut inside, mut outside) = (Vec::new(), String::new());
    for (place, part) in text.split(mark).enumerate() {
        match place % 2 {
            0 => outside.push_str(part),
            _ => inside.push(part),
        }
    }
    (inside, outside)
}

/// Whether there is such a test: a trial of this program, or `file::name` for
/// one in the sources.
fn is_test(name: &str, trials: &[String]) -> bool {
    let Some((file, function)) = name.rsplit_once(".rs::") else {
        return trials.iter().any(|trial| trial == name);
    };
    let text = text_of(&format!("{file}.rs")).unwrap_or_default();
    // The attribute is a line or more above, with comments between.
    let mut after = text.split("#[test]").skip(1);
    after.any(|rest| {
        let first = rest.split("fn ").nth(1).unwrap_or_default();
        first.starts_with(&format!("{function}("))
    })
}

/// What is wrong with one row of the contract.
fn wrong_in(row: &str, trials: &[String], why: &str) -> Vec<String> {
    let (_, evidence) = row.trim_end_matches('|').rsplit_once('|').expect("columns");
    let (arguments, rest) = quoted(evidence, '"');
    let (tests, _) = quoted(&rest, '`');
    let mut wrong = Vec::new();
    if arguments.is_empty() && tests.is_empty() {
        wrong.push(format!("nothing shows it: {row}"));
    }
    let stale = tests.iter().filter(|name| !is_test(name, trials));
    wrong.extend(stale.map(|name| format!("no such test: {name}")));
    let unargued = arguments.iter().filter(|words| !why.contains(**words));
    wrong.extend(unargued.map(|words| format!("not in ARCHITECTURE.md: {words}")));
    wrong
}

/// The names of all trials of this program.
fn trials() -> Vec<String> {
    let trials = crate::trials();
    trials.iter().map(|trial| trial.name().to_owned()).collect()
}

fn the_faults_name_tests_that_exist() {
    let page = text_of("src/faults.rs").expect("the page");
    let trials = trials();
    let rows: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .filter(|line| line.starts_with('|') && line.contains('`'))
        .collect();
    assert!(rows.len() > 30, "only {} rows", rows.len());
    let wrong: Vec<String> = rows
        .iter()
        .flat_map(|row| wrong_in(row, &trials, ""))
        .collect();
    assert!(wrong.is_empty(), "among the faults:\n{}", wrong.join("\n"));
}

fn the_contract_names_tests_that_exist() {
    let contract = text_of("tests/CONTRACT.md").expect("the contract");
    let why = text_of("ARCHITECTURE.md").expect("the arguments");
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    let trials = trials();
    let head = |row: &&str| !row.starts_with("| statement |") && !row.starts_with("|---");
    let rows: Vec<&str> = contract
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter(head)
        .collect();
    assert!(rows.len() > 100, "only {} rows", rows.len());
    let wrong: Vec<String> = rows
        .iter()
        .flat_map(|row| wrong_in(row, &trials, &why))
        .collect();
    assert!(wrong.is_empty(), "in the contract:\n{}", wrong.join("\n"));
}
