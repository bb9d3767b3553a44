//! The one formatter: tables, JSON and Go templates, as Docker's `--format` has them.

use anyhow::anyhow;
use gantry_core::Labels;
use gantry_template::{Error, Missing, Options, Template};
use serde_json::{Map, Value};

use crate::exit::{FAILURE, Outcome, SUCCESS, coded, describe};
use crate::printer::Printer;
use crate::unset::Seen;
use crate::{json, table};

/// A template that can't be understood, in commands that inspect, as Docker has it.
const MALFORMED: u8 = 64;

/// How a listing is printed.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Format {
    /// Print each with a Go template, 'table TEMPLATE' with headers, or 'json'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// A field of a listing's rows: its name in templates, and its header in tables.
pub(crate) type Field = (&'static str, &'static str);

/// Something listed: its fields as templates see them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    fields: Map<String, Value>,
    labels: Labels,
}

impl Row {
    /// Sets a field.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.fields.insert(name.to_owned(), value.into());
    }

    /// Sets `Labels`, and what `.Label NAME` finds.
    pub(crate) fn set_labels(&mut self, labels: &Labels) {
        let texts: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.set("Labels", texts.join(","));
        self.labels = labels.clone();
    }

    /// Its fields as an object.
    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.fields)
    }

    /// With nothing in its texts that commands a terminal, whoever they come from.
    fn plain(&self) -> Self {
        let plain = |value: &Value| match value {
            Value::String(text) => Value::from(table::plain(text)),
            other => other.clone(),
        };
        let fields = self.fields.iter().map(|(name, value)| (name.clone(), plain(value)));
        let labels = self.labels.iter().map(|(key, value)| (key.clone(), table::plain(value)));
        Self { fields: fields.collect(), labels: labels.collect() }
    }

    fn cell(&self, name: &str) -> String {
        match self.fields.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        }
    }
}

/// What a listing shows: all its fields, and those of the usual table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    /// Every field that has a header.
    pub(crate) fields: &'a [Field],
    /// The names of the usual columns.
    pub(crate) usual: &'a [&'a str],
}

impl Format {
    /// With a format from elsewhere.
    pub(crate) fn of(format: Option<String>) -> Self {
        Self { format }
    }

    /// Whether the caller asked for something else than the usual table.
    pub(crate) fn is_given(&self) -> bool {
        self.format.as_deref().is_some_and(|format| !format.is_empty())
    }

    /// Whether a template asks for a field that takes time to find out. As with Docker, JSON does
    /// not.
    pub(crate) fn wants(&self, field: &str) -> bool {
        self.format.as_deref().is_some_and(|format| format.contains(field))
    }

    /// Sets rows in a table, as lines of JSON, or with the caller's template.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub(crate) fn rows(&self, columns: Columns<'_>, rows: &[Row]) -> anyhow::Result<String> {
        let format = self.format.as_deref().unwrap_or_default();
        if format == "json" {
            let lines = rows.iter().map(|row| Value::Object(row.fields.clone()).to_string());
            return Ok(lines.map(|line| line + "\n").collect());
        }
        match gantry_template::table(format) {
            None if format.is_empty() => Ok(usual(columns, rows)),
            Some("") => Ok(usual(columns, rows)),
            Some(template) => {
                let template = parse(template)?;
                let mut header = Row::default();
                for (name, title) in columns.fields {
                    header.set(name, *title);
                }
                let options = Options { header: true, ..Options::default() };
                let titles = template.render(&Value::Object(header.fields), &options);
                let mut lines = vec![cells(&titles.map_err(failed)?)];
                for row in rows {
                    lines.push(cells(&render(&template, &row.plain())?));
                }
                Ok(table::lines(&lines))
            }
            None => {
                let template = parse(format)?;
                let lines = rows.iter().map(|row| Ok(render(&template, row)? + "\n"));
                lines.collect()
            }
        }
    }

    /// The same with `\t` and `\n` as a listing takes them.
    pub(crate) fn unescaped(&self) -> Self {
        Self::of(self.format.as_deref().map(gantry_template::unescape))
    }

    /// One object with the caller's template, or as JSON; `None` when nothing was asked for.
    ///
    /// # Errors
    /// What is wrong with the template, with Docker's exit code for one that can't be understood.
    pub(crate) fn object(&self, object: &Value) -> anyhow::Result<Option<String>> {
        let format = self.format.as_deref().unwrap_or_default();
        match format {
            "" => Ok(None),
            "json" => Ok(Some(format!("{object}\n"))),
            template => {
                let template = understood(template)?;
                let options = Options { missing: Missing::Error, ..Options::default() };
                let text = template.render(object, &options).map_err(failed)?;
                Ok(Some(text + "\n"))
            }
        }
    }

    /// Shows objects as `inspect` does, and tells of those that failed, now or before; the exit
    /// code.
    ///
    /// # Errors
    /// What is wrong with the template, with Docker's exit code for that; those of the output.
    pub(crate) fn inspected(
        &self,
        printer: &Printer,
        objects: &[String],
        mut failed: Vec<anyhow::Error>,
    ) -> Outcome {
        match self.objects(objects, &mut failed)? {
            Some(text) => printer.data(text.as_bytes())?,
            None => printer.line(json::array(objects))?,
        }
        for error in &failed {
            printer.error(describe(error));
        }
        Ok(if failed.is_empty() { SUCCESS } else { FAILURE })
    }

    /// Objects with the caller's template, and what is wrong with those that it can't show;
    /// `None` when no template was given.
    fn objects(
        &self,
        objects: &[String],
        failed: &mut Vec<anyhow::Error>,
    ) -> anyhow::Result<Option<String>> {
        let format = self.format.as_deref().unwrap_or_default();
        if format.is_empty() {
            return Ok(None);
        }
        if format == "json" {
            return Ok(Some(format!("[{}]\n", objects.join(","))));
        }
        let template = understood(format)?;
        let seen = Seen::by(format);
        let options = Options {
            missing: Missing::Error,
            methods: Some(&|object, name, arguments| seen.field(object, name, arguments)),
            // Labels and the like have any keys.
            maps: Some(&|map| map.values().all(Value::is_string).then(|| Value::from(""))),
            ..Options::default()
        };
        let mut text = String::new();
        for object in objects {
            let mut object: Value = serde_json::from_str(object)
                .map_err(|error| anyhow!(error).context("read what gantryd knows"))?;
            seen.complete(&mut object);
            match template.render(&object, &options) {
                Ok(line) => {
                    text += &line;
                    text.push('\n');
                }
                Err(error) => failed.push(malformed(error)),
            }
        }
        if text.is_empty() {
            // As Docker, for scripts that read a line.
            text.push('\n');
        }
        Ok(Some(text))
    }
}

fn usual(columns: Columns<'_>, rows: &[Row]) -> String {
    let title = |name: &&str| {
        let found = columns.fields.iter().find(|(field, _)| field == name);
        found.map_or_else(String::new, |(_, title)| (*title).to_owned())
    };
    let mut lines = vec![columns.usual.iter().map(title).collect::<Vec<_>>()];
    for row in rows.iter().map(Row::plain) {
        lines.push(columns.usual.iter().map(|name| row.cell(name)).collect());
    }
    table::lines(&lines)
}

fn cells(line: &str) -> Vec<String> {
    line.split('\t').map(str::to_owned).collect()
}

/// A template as it is written.
fn understood(template: &str) -> anyhow::Result<Template> {
    Template::parse(template).map_err(malformed).map_err(coded(MALFORMED))
}

fn parse(template: &str) -> anyhow::Result<Template> {
    Template::parse(&gantry_template::unescape(template)).map_err(malformed)
}

fn render(template: &Template, row: &Row) -> anyhow::Result<String> {
    let labels = |_: &Value, name: &str, arguments: &[Value]| match (name, arguments) {
        ("Label", [Value::String(key)]) => {
            Some(Ok(Value::from(row.labels.get(key).map_or("", String::as_str))))
        }
        _ => None,
    };
    let options = Options { missing: Missing::Error, methods: Some(&labels), ..Options::default() };
    template.render(&Value::Object(row.fields.clone()), &options).map_err(failed)
}

fn malformed(error: Error) -> anyhow::Error {
    anyhow!("template parsing error: {error}")
}

fn failed(error: Error) -> anyhow::Error {
    anyhow!("failed to execute template: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [Field; 3] = [("ID", "CONTAINER ID"), ("Names", "NAMES"), ("Labels", "LABELS")];
    const COLUMNS: Columns<'_> = Columns { fields: &FIELDS, usual: &["ID", "Names"] };

    fn rows() -> Vec<Row> {
        let row = |id: &str, name: &str| {
            let mut row = Row::default();
            row.set("ID", id);
            row.set("Names", name);
            row.set_labels(&[("env".to_owned(), "prod".to_owned())].into());
            row
        };
        vec![row("0123456789ab", "web"), row("1", "db")]
    }

    fn formatted(format: &str) -> String {
        Format::of(Some(format.to_owned())).rows(COLUMNS, &rows()).unwrap()
    }

    #[test]
    fn each_form() {
        let usual = "CONTAINER ID   NAMES\n0123456789ab   web\n1              db\n";
        assert_eq!(Format::default().rows(COLUMNS, &rows()).unwrap(), usual);
        assert_eq!(formatted("table"), usual);
        assert_eq!(formatted("{{.ID}}"), "0123456789ab\n1\n");
        assert_eq!(formatted(r#"{{.Names}}\t{{.Label "env"}}"#), "web\tprod\ndb\tprod\n");
        assert_eq!(
            formatted(r"table {{.Names}}\t{{.Labels}}"),
            "NAMES     LABELS\nweb       env=prod\ndb        env=prod\n"
        );
        let json = formatted("json");
        assert_eq!(
            json.lines().next(),
            Some(r#"{"ID":"0123456789ab","Labels":"env=prod","Names":"web"}"#)
        );
    }

    #[test]
    fn tables_command_no_terminal() {
        let mut row = Row::default();
        row.set("ID", "1\x1b[2J");
        row.set("Names", "a\tb");
        row.set_labels(&[("k".to_owned(), "\x07".to_owned())].into());
        let shown = |format: &str| {
            let format = Format::of(Some(format.to_owned()));
            format.rows(COLUMNS, std::slice::from_ref(&row)).unwrap()
        };
        assert_eq!(shown("").lines().nth(1), Some(r"1\x1b[2J       a\tb"));
        let own = shown(r"table {{.Labels}}\t{{.ID}}");
        assert_eq!(own.lines().nth(1), Some(r"k=\x07    1\x1b[2J"));
        assert_eq!(shown("{{.ID}}"), "1\x1b[2J\n", "as it is, for programs");
    }

    #[test]
    fn what_is_wrong_is_told() {
        for bad in ["{{", "{{.Nope}}", "{{nope .ID}}"] {
            let refused = Format::of(Some(bad.to_owned())).rows(COLUMNS, &rows()).unwrap_err();
            assert!(refused.to_string().contains("template"), "{refused}");
        }
    }

    /// Objects with a template that fits them all.
    fn shown(format: &str, objects: &[String]) -> anyhow::Result<Option<String>> {
        let mut failed = Vec::new();
        let text = Format::of(Some(format.to_owned())).objects(objects, &mut failed);
        failed.pop().map_or(text, Err)
    }

    #[test]
    fn objects() {
        let object = r#"{"State":{"Status":"running"},"Config":{"Labels":{"a":"b"}}}"#.to_owned();
        let of = |format: &str| shown(format, std::slice::from_ref(&object));
        assert_eq!(of("{{.State.Status}}").unwrap().unwrap(), "running\n");
        assert_eq!(of("{{json .State}}").unwrap().unwrap(), "{\"Status\":\"running\"}\n");
        assert_eq!(of("{{index .Config.Labels \"c\"}}").unwrap().unwrap(), "\n");
        assert!(of("{{.Nope}}").is_err());
        // Fields that Docker leaves out are there for templates.
        let state = r#"{"State":{"OOMKilled":false},"Config":{"OnBuild":null}}"#.to_owned();
        let of_state =
            |format: &str| shown(format, std::slice::from_ref(&state)).map(Option::unwrap);
        let health = "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}";
        assert_eq!(of_state(health).unwrap(), "none\n");
        assert_eq!(
            of_state("{{.Config.StopSignal}}|{{json .Config.Healthcheck}}").unwrap(),
            "|null\n"
        );
        assert_eq!(of_state("{{.Config.OnBuild}}{{len .Config.ExposedPorts}}").unwrap(), "[]0\n");
        assert!(of_state("{{.State.Health.Status}}").is_err());
        assert_eq!(of("json").unwrap().unwrap(), format!("[{object}]\n"));
        assert_eq!(Format::default().objects(&[object], &mut Vec::new()).unwrap(), None);
        assert_eq!(shown("{{.Id}}", &[]).unwrap().as_deref(), Some("\n"));
    }

    #[test]
    fn objects_without_a_field_hold_up_no_others() {
        let has = |id: u8| format!(r#"{{"Id":"{id}","Of":{{"One":{id}}}}}"#);
        let objects = [has(1), r#"{"Id":"2","Size":1}"#.to_owned(), has(3)];
        let mut failed = Vec::new();
        let format = Format::of(Some("{{.Id}}:{{.Of.One}}".to_owned()));
        let text = format.objects(&objects, &mut failed).unwrap();
        assert_eq!(text.as_deref(), Some("1:1\n3:3\n"));
        assert_eq!(failed.len(), 1);
        assert!(failed[0].to_string().starts_with("template parsing error: "), "{failed:?}");
        // As Docker: a line in any case.
        let text = format.objects(&objects[1..2], &mut failed).unwrap();
        assert_eq!((text.as_deref(), failed.len()), (Some("\n"), 2));
    }

    #[test]
    fn one_object() {
        let object = serde_json::json!({"Names": ["a", "b"]});
        let of = |format: &str| Format::of(Some(format.to_owned())).object(&object);
        assert_eq!(of(r#"{{join .Names "\n"}}"#).unwrap().unwrap(), "a\nb\n");
        assert!(of("{{").unwrap_err().is::<crate::exit::Coded>());
        let listed = Format::of(Some(r"{{len .Names}}\t{{index .Names 0}}".to_owned()));
        assert_eq!(listed.unescaped().object(&object).unwrap().unwrap(), "2\ta\n");
    }
}
