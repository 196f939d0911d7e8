//! What every report keeps: its width, its field names, its sums, its verdict.
#![forbid(unsafe_code)]

mod generated;
mod json;
mod looks;
mod picture;
mod rules;
mod samples;
mod words;
