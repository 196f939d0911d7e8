//! Who is compared with whom: the better of the two bare loops, and the frameworks.
//!
//! All ratios are taken within a round, so that what disturbed a round disturbed both.

use crate::bench::book::Book;
use crate::bench::echo::cell::Cell;
use crate::bench::sample::{Spread, geometric_mean};
use crate::serve::Kind;

/// The project's own row.
pub const OURS: &str = "evenfall";

/// What is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// As with rates.
    More,
    /// As with times.
    Less,
}

/// Whether a server is one of the two bare loops.
pub fn is_bare(server: &str) -> bool {
    [Kind::BareRing, Kind::BareEpoll]
        .iter()
        .any(|kind| kind.name() == server)
}

/// The bare loop whose median is the better one in this cell.
pub fn better_loop(book: &Book, cell: &str, figure: &str, better: Better) -> Option<String> {
    let servers = book.servers(cell).into_iter();
    best(
        book,
        cell,
        figure,
        better,
        servers.filter(|server| is_bare(server)),
    )
}

/// The one with the best median.
fn best(
    book: &Book,
    cell: &str,
    figure: &str,
    better: Better,
    servers: impl Iterator<Item = String>,
) -> Option<String> {
    let known = servers.filter_map(|server| {
        let median = book.sample(cell, &server, figure).median()?;
        Some((median, server))
    });
    let by_median = |one: &(f64, String), other: &(f64, String)| one.0.total_cmp(&other.0);
    let found = match better {
        Better::More => known.max_by(by_median),
        Better::Less => known.min_by(by_median),
    };
    found.map(|(_, server)| server)
}

/// The frameworks of a cell: all but the bare loops and ourselves.
pub fn frameworks(book: &Book, cell: &str) -> Vec<String> {
    let servers = book.servers(cell).into_iter();
    servers
        .filter(|server| !is_bare(server) && server != OURS)
        .collect()
}

/// The framework with the best median in this cell.
pub fn best_framework(book: &Book, cell: &str, figure: &str, better: Better) -> Option<String> {
    best(
        book,
        cell,
        figure,
        better,
        frameworks(book, cell).into_iter(),
    )
}

/// One server's share of another's, round by round.
pub fn paired(book: &Book, cell: &str, figure: &str, server: &str, base: &str) -> Option<Spread> {
    let of = |server: &str| book.sample(cell, server, figure);
    of(server).over(&of(base)).spread()
}

/// One server's share of the better bare loop's, which is the same one in all rounds.
pub fn to_loop(
    book: &Book,
    cell: &str,
    figure: &str,
    server: &str,
    better: Better,
) -> Option<Spread> {
    let base = better_loop(book, cell, figure, better)?;
    paired(book, cell, figure, server, &base)
}

/// One server's share of whichever bare loop was better in each round: stricter, as of two equal
/// loops the luckier one is taken.
pub fn to_luckier_loop(
    book: &Book,
    cell: &str,
    figure: &str,
    server: &str,
    better: Better,
) -> Option<Spread> {
    let bare = |kind: Kind| book.sample(cell, &kind.name(), figure);
    let pairs = bare(Kind::BareRing).with(
        &bare(Kind::BareEpoll),
        match better {
            Better::More => f64::max,
            Better::Less => f64::min,
        },
    );
    book.sample(cell, server, figure).over(&pairs).spread()
}

/// The geometric mean of a server's rates over the cells, each relative to the bare ring.
pub fn mean_rate(book: &Book, server: &str) -> Option<f64> {
    let ring = Kind::BareRing.name();
    let shares: Vec<f64> = book
        .cells()
        .iter()
        .filter(|cell| Cell::compares(cell))
        .filter_map(|cell| paired(book, cell, "rate", server, &ring))
        .map(|spread| spread.median)
        .collect();
    geometric_mean(&shares)
}

/// The framework whose geometric mean over the cells is the best.
pub fn best_mean(book: &Book) -> Option<String> {
    let cells = book.cells();
    let mut servers: Vec<String> = cells
        .iter()
        .flat_map(|cell| frameworks(book, cell))
        .collect();
    servers.sort();
    servers.dedup();
    let means = servers
        .into_iter()
        .filter_map(|server| Some((mean_rate(book, &server)?, server)));
    means
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, server)| server)
}

/// How `sample` of ours compares with a framework's: whether that one is ahead beyond the spread of
/// the pairs, that is in more than three quarters of the rounds.
pub fn is_ahead(spread: Spread, better: Better) -> bool {
    match better {
        Better::More => spread.high < 1.0,
        Better::Less => spread.low > 1.0,
    }
}

/// The frameworks that are ahead of ours beyond the spread, with our share of theirs.
pub fn ahead(book: &Book, cell: &str, figure: &str, better: Better) -> Vec<(String, Spread)> {
    let shares = frameworks(book, cell).into_iter().filter_map(|server| {
        let spread = paired(book, cell, figure, OURS, &server)?;
        Some((server, spread))
    });
    shares
        .filter(|(_, spread)| is_ahead(*spread, better))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_rounds(rounds: [[f64; 3]; 3]) -> Book {
        let mut text = String::from("cell,server,round,rate\n");
        for (server, rates) in ["bare-ring", "bare-epoll", OURS].iter().zip(rounds) {
            for (round, rate) in rates.iter().enumerate() {
                text.push_str(&format!("c,{server},{round},{rate}\n"));
            }
        }
        Book::parse(&text, &["rate"])
    }

    #[test]
    fn the_better_loop_is_one_and_the_luckier_one_changes() {
        let book = of_rounds([[10.0, 20.0, 12.0], [9.0, 10.0, 40.0], [10.0, 20.0, 20.0]]);
        let median = |spread: Option<Spread>| spread.expect("all were measured").median;
        let steady = to_loop(&book, "c", "rate", OURS, Better::More);
        assert_eq!(median(steady), 1.0);
        let lucky = to_luckier_loop(&book, "c", "rate", OURS, Better::More).expect("as above");
        assert_eq!(lucky.low, 0.75);
    }

    #[test]
    fn ahead_means_in_more_than_three_quarters_of_the_rounds() {
        let spread = |low, high| Spread {
            low,
            median: 0.9,
            high,
        };
        assert!(is_ahead(spread(0.8, 0.99), Better::More));
        assert!(!is_ahead(spread(0.8, 1.01), Better::More));
        assert!(is_ahead(spread(1.01, 1.2), Better::Less));
        assert!(!is_ahead(spread(0.99, 1.2), Better::Less));
    }
}
