//! The table of the micro bench, from what criterion has written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bench::Setting;
use crate::bench::page::{Table, number};

/// Reads criterion's estimates, prints, and keeps `micro.md`.
pub fn run(setting: &Setting) -> io::Result<()> {
    let itself = std::env::current_exe()?;
    // Below the target folder, as this program is.
    let folder = itself.ancestors().nth(2).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    collect(&folder.join("criterion"), &mut found)?;
    found.sort();
    let head = ["part", "median ns", "from", "to"];
    let mut table = Table::new(head.map(String::from));
    for place in &found {
        let names = read(&place.join("benchmark.json"))?;
        let estimates = read(&place.join("estimates.json"))?;
        let median = &estimates["median"];
        let bounds = &median["confidence_interval"];
        table.row([
            names["full_id"].as_str().unwrap_or("?").to_owned(),
            number(median["point_estimate"].as_f64(), 1),
            number(bounds["lower_bound"].as_f64(), 1),
            number(bounds["upper_bound"].as_f64(), 1),
        ]);
    }
    let text = format!(
        "# Micro\n\nMedians with their intervals of confidence, as criterion gives them; a group \
         of 64 or 1,000 is the time of all.\n\n{table}"
    );
    println!("{text}");
    setting.keep("micro.md", &text)
}

/// The folders with the newest estimates.
fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        if path.ends_with("new") && path.join("estimates.json").exists() {
            found.push(path);
        } else {
            collect(&path, found)?;
        }
    }
    Ok(())
}

/// One file of criterion's.
fn read(path: &Path) -> io::Result<Value> {
    let text = fs::read_to_string(path)?;
    serde_json::from_str(&text).map_err(io::Error::other)
}
