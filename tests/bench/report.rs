//! Figures as a table for people and as JSON for programs.

use std::fmt::Write as _;

use gantry_tests::paths;
use serde_json::{Value, json};

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

struct Row {
    what: String,
    who: String,
    values: Vec<f64>,
    unit: &'static str,
}

impl Row {
    fn median(&self) -> f64 {
        self.values[self.values.len() / 2]
    }
}

impl Report {
    /// Adds a row; values in any order.
    pub(crate) fn add(&mut self, what: &str, who: &str, mut values: Vec<f64>, unit: &'static str) {
        values.sort_by(f64::total_cmp);
        let row = Row { what: what.into(), who: who.into(), values, unit };
        // Rows of one kind stand together, in the order of their coming.
        let last = self.rows.iter().rposition(|r| r.what == what);
        self.rows.insert(last.map_or(self.rows.len(), |at| at + 1), row);
    }

    /// Something that the reader must know, such as a peer that is missing.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Prints the table and writes the JSON.
    pub(crate) fn finish(&self) {
        let mut text = String::new();
        let mut last = "";
        for row in &self.rows {
            if row.what != last {
                let _ = writeln!(text, "\n{}", row.what);
                let _ = writeln!(
                    text,
                    "  {:<24} {:>10} {:>10} {:>10}  {:>8}",
                    "", "median", "min", "max", "ratio"
                );
                last = &row.what;
            }
            let ours = self.rows.iter().find(|r| r.what == row.what && r.who == "gantry");
            let ratio =
                ours.map(|o| format!("{:.2}x", row.median() / o.median())).unwrap_or_default();
            let (min, max) = (row.values[0], row.values[row.values.len() - 1]);
            let unit = row.unit;
            let _ = writeln!(
                text,
                "  {:<24} {:>10.2} {min:>10.2} {max:>10.2}  {ratio:>8} {unit}",
                row.who,
                row.median()
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "\nnote: {note}");
        }
        print(&text);
        let file = paths::bin().join("bench.json");
        let rows: Vec<Value> = self.rows.iter().map(|r| json!({"what": r.what, "who": r.who, "unit": r.unit, "median": r.median(), "values": r.values})).collect();
        let json = json!({"rows": rows, "notes": self.notes});
        std::fs::write(&file, format!("{json:#}\n")).expect("write bench.json");
        print(&format!("written to {}\n", file.display()));
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark's result goes to standard output")]
fn print(text: &str) {
    print!("{text}");
}
