//! Tables in Docker's layout.

/// Space between two columns.
const PADDING: usize = 3;
/// Narrowest column, with its padding.
const NARROWEST: usize = 10;

/// Sets lines in columns that are as wide as what they hold. The last cell of a line is not
/// padded.
pub(crate) fn lines(lines: &[Vec<String>]) -> String {
    let mut widths = Vec::new();
    for line in lines {
        widths.resize(line.len().max(widths.len()), NARROWEST);
        let padded = line.len().saturating_sub(1);
        for (width, cell) in widths.iter_mut().zip(&line[..padded]) {
            *width = column(cell).max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        push(&mut text, &widths[..line.len()], line.iter().map(String::as_str));
    }
    text
}

fn column(cell: &str) -> usize {
    (cell.chars().count() + PADDING).max(NARROWEST)
}

fn push<'a>(text: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    for (index, (cell, width)) in cells.zip(widths).enumerate() {
        text.push_str(cell);
        if index + 1 < widths.len() {
            let rest = width.saturating_sub(cell.chars().count());
            text.extend(std::iter::repeat_n(' ', rest));
        }
    }
    text.push('\n');
}

/// Cuts a text to so many characters, the last of them an ellipsis.
pub(crate) fn ellipsis(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Puts a text in double quotes; what would not print is escaped.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c => push_plain(&mut quoted, c),
        }
    }
    quoted.push('"');
    quoted
}

/// A text in which nothing commands a terminal: control characters are escaped.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    text.chars().for_each(|c| push_plain(&mut plain, c));
    plain
}

fn push_plain(text: &mut String, c: char) {
    match c {
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
        c => text.push(c),
    }
}

/// Joins a command's arguments; those with spaces, and empty ones, stand in
/// single quotes.
pub(crate) fn command_line(arguments: &[String]) -> String {
    let mut line = String::new();
    for argument in arguments {
        if !line.is_empty() {
            line.push(' ');
        }
        if argument.is_empty() || argument.contains(' ') {
            line.push('\'');
            line.push_str(argument);
            line.push('\'');
        } else {
            line.push_str(argument);
        }
    }
    line
}

/// The first 12 digits of an ID, without its algorithm.
pub(crate) fn short_id(id: &str) -> &str {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.get(..12).unwrap_or(digits)
}

/// What a cell shows that can't be known.
pub(crate) fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render<const N: usize>(headers: [&str; N], rows: &[[String; N]]) -> String {
        let headers = headers.map(str::to_owned).to_vec();
        let rows = rows.iter().map(|row| row.to_vec());
        lines(&[headers].into_iter().chain(rows).collect::<Vec<_>>())
    }

    #[test]
    fn columns_are_as_wide_as_dockers() {
        let rows = [
            ["debian-userland", "latest", "1a2b"].map(str::to_owned),
            ["é", "1", "2"].map(str::to_owned),
        ];
        assert_eq!(
            render(["REPOSITORY", "TAG", "ID"], &rows),
            "REPOSITORY        TAG       ID\n\
             debian-userland   latest    1a2b\n\
             é                 1         2\n"
        );
    }

    #[test]
    fn a_table_without_rows_has_its_headers() {
        assert_eq!(render(["A", "B"], &[]), "A         B\n");
    }

    #[test]
    fn cells_are_cut_and_quoted() {
        assert_eq!(quote(&ellipsis("nginx -g 'daemon off;'", 20)), "\"nginx -g 'daemon of…\"");
        assert_eq!(ellipsis("exactly twenty chars", 20), "exactly twenty chars");
        assert_eq!(quote("a\"b\\c\n\x1b"), r#""a\"b\\c\n\x1b""#);
        assert_eq!(plain("\x1b[2J\t\u{9b}\x7f é\"\\"), r#"\x1b[2J\t\x9b\x7f é"\"#);
    }

    #[test]
    fn commands_show_where_arguments_end() {
        let arguments = ["sh", "-c", "echo hi", ""].map(str::to_owned);
        assert_eq!(command_line(&arguments), "sh -c 'echo hi' ''");
    }

    #[test]
    fn ids_are_short() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("abc"), "abc");
    }
}
