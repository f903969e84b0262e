//! Tables and numbers for people.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width};

/// A table without borders that fits the terminal. `heads` that start with `>` are right-aligned.
pub(super) fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(heads.iter().map(|h| h.trim_start_matches('>')));
    table.add_rows(rows);
    for (i, head) in heads.iter().enumerate() {
        let Some(column) = table.column_mut(i) else { continue };
        column.set_padding((0, 2));
        // Only a last column of text, which holds paths, gives way when the terminal is narrow, and not without end.
        column.set_constraint(if i + 1 < heads.len() || head.starts_with('>') {
            ColumnConstraint::ContentWidth
        } else {
            ColumnConstraint::LowerBoundary(Width::Fixed(30))
        });
        if head.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Names and values, one pair per line.
pub(super) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<_> = rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    lines.join("\n")
}

/// A count with at most four digits: 950, 12.3k, 4.56M.
pub(super) fn count(n: u64) -> String {
    scaled(n, 1000.0, &["", "k", "M", "G", "T", "P", "E"])
}

/// A number of bytes with at most four digits: 950 B, 12.3 kB.
pub(super) fn bytes(n: u64) -> String {
    scaled(n, 1000.0, &[" B", " kB", " MB", " GB", " TB", " PB", " EB"])
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn scaled(n: u64, base: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (n as f64, 0);
    while value >= base * 0.9995 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$}{}", units[unit])
}

/// A time since something: 950 ms, 12.3 s, 4 min.
pub(super) fn age(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min", ms / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let shown = [0, 950, 999, 1000, 12_345, 999_499, 999_600, 4_560_000, u64::MAX].map(count);
        assert_eq!(shown, ["0", "950", "999", "1.00k", "12.3k", "999k", "1.00M", "4.56M", "18.4E"]);
        assert_eq!(bytes(1514), "1.51 kB");
        assert_eq!([age(40), age(1234), age(180_000)], ["40 ms", "1.2 s", "3 min"]);
    }
}
