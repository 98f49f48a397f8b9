//! Standard output, which carries the result of a command and nothing else.

use std::io::Write as _;

use serde::Serialize;

use super::error::CliError;

/// Writes `text` as it is.
///
/// # Errors
/// If it cannot be written; see [`CliError::is_closed_pipe`].
pub fn write(text: &str) -> Result<(), CliError> {
    write_bytes(text.as_bytes())
}

/// Writes `bytes` as they are.
///
/// # Errors
/// As [`write`].
pub fn write_bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(CliError::Stdout)
}

/// Writes `value` as indented JSON and a line break.
///
/// # Errors
/// As [`write`].
pub fn write_json(value: &impl Serialize) -> Result<(), CliError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| CliError::Stdout(error.into()))?;
    text.push('\n');
    write(&text)
}

/// `rows` as lines with their columns under each other, the first row being the heading. Columns in `right` end
/// under each other.
pub fn table<const N: usize>(rows: &[[String; N]], right: &[usize]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = match right.contains(&column) {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            };
            line.push_str(if column == 0 { "" } else { "  " });
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows =
            [row(["NAME", "SIZE", "CREATED"]), row(["a", "1.5 kB", "-"]), row(["längster", "9 B", ""])];
        assert_eq!(table(&rows, &[1]), "NAME        SIZE  CREATED\na         1.5 kB  -\nlängster     9 B\n");
    }
}
