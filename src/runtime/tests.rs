//! A whole runtime on the real kernel, where a test has to look or to reach inside.

mod reads;
mod struck;
