//! Text for people and text for programs.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::exit::Outcome;

/// Whether standard output is a terminal.
pub fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether colour is wanted on standard output.
pub fn in_colour() -> bool {
    on_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints one line.
pub fn line(text: impl std::fmt::Display) -> Outcome {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Prints a value as one line of JSON.
pub fn json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string(value).map_err(std::io::Error::from)?;
    line(text)
}

/// Rows under a head: aligned on a terminal, separated by tabs without a head when piped.
#[derive(Debug)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row: one cell a column.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it.
    pub fn print(&self) -> Outcome {
        let text = if on_terminal() { self.aligned(in_colour()) } else { self.plain() };
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(())
    }

    fn plain(&self) -> String {
        self.rows.iter().map(|row| row.join("\t") + "\n").collect()
    }

    fn aligned(&self, colour: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain(self.head.get(column).map(|head| head.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            padded.join("  ").trim_end().to_owned()
        };
        let head = line(&self.head.iter().map(|head| head.to_uppercase()).collect::<Vec<_>>());
        let mut text = if colour { format!("\x1b[1m{head}\x1b[0m\n") } else { head + "\n" };
        for row in &self.rows {
            text += &line(row);
            text += "\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_for_people_and_not_for_programs() {
        let mut table = Table::new(&["name", "lag"]);
        table.row(vec!["billing".into(), "7".into()]);
        assert_eq!(table.plain(), "billing\t7\n");
        assert_eq!(table.aligned(false), "NAME     LAG\nbilling  7\n");
    }
}
