// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The report as text, reStructuredText, Markdown and a plot.
//!
//! Neighbours: `figures.rs`. Locks: none.

use std::fmt::Write;

use crate::figures::{
    text,
    Figure,
    Report,
    Table, //
};

/// The generated part of a page is between these lines, in reStructuredText and in Markdown.
const RST: [&str; 2] = [
    ".. Figures, written by \"make bench\": do not edit\n",
    ".. End of figures\n",
];
const MARKDOWN: [&str; 2] = [
    "<!-- Figures, written by \"make bench\": do not edit -->\n",
    "<!-- End of figures -->\n",
];

/// The columns of the list of figures.
fn figures(report: &Report) -> Table {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), text);
    let row = |figure: &Figure| {
        vec![
            figure.name.clone(),
            number(figure.value),
            number(figure.bar),
            figure.verdict.as_str().to_owned(),
            figure.remark.clone(),
        ]
    };
    let columns = ["figure", "value", "at most", "verdict", "remark"];
    Table {
        title: "Figures".to_owned(),
        columns: columns.map(str::to_owned).to_vec(),
        rows: report.figures.iter().map(row).collect(),
    }
}

fn tables(report: &Report) -> impl Iterator<Item = &Table> {
    report.tables.iter().filter(|table| !table.rows.is_empty())
}

/// For a terminal.
pub(crate) fn plain(report: &Report) -> String {
    let mut out = String::new();
    for table in tables(report).chain([&figures(report)]) {
        let lines = || std::iter::once(&table.columns).chain(&table.rows);
        let _ = writeln!(out, "\n{}", table.title);
        let width = |column: usize| {
            let cells = lines().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..table.columns.len()).map(width).collect();
        for line in lines() {
            let mut row = String::new();
            for ((cell, width), column) in line.iter().zip(&widths).zip(0..) {
                let _ = match column {
                    0 => write!(row, "  {cell:<width$}"),
                    _ if table
                        .columns
                        .get(column)
                        .is_some_and(|name| name == "remark") =>
                    {
                        write!(row, "  {cell}")
                    }
                    _ => write!(row, "  {cell:>width$}"),
                };
            }
            let _ = writeln!(out, "{}", row.trim_end());
        }
    }
    out
}

fn rst_table(table: &Table) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "\n.. list-table:: {}\n   :header-rows: 1\n\n",
        table.title
    );
    for line in std::iter::once(&table.columns).chain(&table.rows) {
        for (cell, column) in line.iter().zip(0..) {
            let mark = if column == 0 { "   * -" } else { "     -" };
            let _ = writeln!(out, "{}", format!("{mark} {cell}").trim_end());
        }
    }
    out
}

/// `page` with the figures in their place, `None` if it has none.
pub(crate) fn fill(report: &Report, page: &str) -> Option<String> {
    let put = |[begin, end]: [&str; 2], text: &str| {
        let (before, rest) = page.split_once(begin)?;
        let (_, after) = rest.split_once(end)?;
        Some(format!("{before}{begin}\n{text}\n{end}{after}"))
    };
    put(RST, &rst(report)).or_else(|| put(MARKDOWN, &markdown(report)))
}

/// For Documentation/: everything.
fn rst(report: &Report) -> String {
    let mut out = String::new();
    for (name, version) in &report.versions {
        let _ = writeln!(out, "- {name}: {version}");
    }
    for table in [&figures(report)].into_iter().chain(tables(report)) {
        out += &rst_table(table);
    }
    out
}

/// For a page of a repository: the figures that have a bar, and those that have no value.
pub(crate) fn markdown(report: &Report) -> String {
    let mut out = String::from("| figure | value | at most | |\n|---|---|---|---|\n");
    let shown = |figure: &&Figure| figure.bar.is_some() || figure.value.is_none();
    for figure in report.figures.iter().filter(shown) {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), text);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            figure.name,
            number(figure.value),
            number(figure.bar),
            figure.verdict.as_str()
        );
    }
    out
}

/// A bar for each ratio of each loop, around 1.
pub(crate) fn svg(report: &Report) -> String {
    const LABEL: f64 = 90.0;
    const WIDTH: f64 = 500.0;
    const ROW: f64 = 48.0;
    const HEAD: f64 = 46.0;
    /// The plot's edges.
    const LOW: f64 = 0.95;
    const HIGH: f64 = 1.05;

    let x = |value: f64| LABEL + WIDTH * (value.clamp(LOW, HIGH) - LOW) / (HIGH - LOW);
    let height = HEAD + ROW * report.ratios.len() as f64 + 24.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <!-- SPDX-License-Identifier: GPL-2.0 -->\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"16\">Instructions for each operation</text>\n\
         <rect x=\"{LABEL}\" y=\"24\" width=\"10\" height=\"10\" fill=\"#1f4e79\"/>\
         <text x=\"{}\" y=\"34\">sealed / unsealed</text>\n\
         <rect x=\"{}\" y=\"24\" width=\"10\" height=\"10\" fill=\"#9dc3e6\"/>\
         <text x=\"{}\" y=\"34\">unsealed / not opted in</text>\n\
         <rect x=\"{}\" y=\"24\" width=\"10\" height=\"10\" fill=\"#c9c9c9\"/>\
         <text x=\"{}\" y=\"34\">not opted in / KVM without the option</text>\n",
        LABEL + WIDTH + 70.0,
        LABEL + 15.0,
        LABEL + 130.0,
        LABEL + 145.0,
        LABEL + 290.0,
        LABEL + 305.0,
    );
    for (ratio, row) in report.ratios.iter().zip(0..) {
        let top = HEAD + ROW * f64::from(row);
        let _ = writeln!(
            out,
            "<text x=\"8\" y=\"{}\">{}</text>",
            top + 24.0,
            escaped(&ratio.name)
        );
        for (value, fill, at) in [
            (ratio.sealed_to_open, "#1f4e79", top),
            (ratio.open_to_off, "#9dc3e6", top + 14.0),
            (ratio.off_to_plain, "#c9c9c9", top + 28.0),
        ] {
            let Some(value) = value else {
                continue;
            };
            let (left, right) = (x(value.min(1.0)), x(value.max(1.0)));
            let _ = writeln!(
                out,
                "<rect x=\"{left:.1}\" y=\"{at}\" width=\"{:.1}\" height=\"12\" fill=\"{fill}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" font-size=\"10\">{value:.4}</text>",
                (right - left).max(1.0),
                right + 4.0,
                at + 10.0,
            );
        }
    }
    for value in [1.0, 1.01] {
        let _ = writeln!(
            out,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{HEAD}\" y2=\"{1}\" stroke=\"gray\" stroke-dasharray=\"3\"/>\
             <text x=\"{0:.1}\" y=\"{2}\" text-anchor=\"middle\" font-size=\"10\">{value}</text>",
            x(value),
            height - 18.0,
            height - 6.0,
        );
    }
    out + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
