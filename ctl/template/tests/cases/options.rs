//! What callers tell of their data.

use gantry_template::{Error, Missing, Options, Template};
use serde_json::{Value, json};

/// What `docker inspect` would show of a container, in short.
fn container() -> Value {
    json!({
        "Config": {"Labels": {"com.example.a": "1", "tier": "web"}, "Env": ["A=1", "B=2"]},
        "State": {"Health": null, "Status": "running"},
    })
}

fn render(template: &str, options: &Options<'_>) -> Result<String, String> {
    let template = Template::parse(template).expect(template);
    template.render(&container(), options).map_err(|e| e.to_string())
}

#[track_caller]
fn check(options: &Options<'_>, cases: &[(&str, Result<&str, &str>)]) {
    for (template, expected) in cases {
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(render(template, options), expected, "{template}");
    }
}

#[test]
fn structs_have_all_their_fields() {
    let options = Options { missing: Missing::Error, ..Options::default() };
    check(
        &options,
        &[
            ("{{.State.Status}}", Ok("running")),
            ("{{.State.Health}}|{{json .State.Health}}", Ok("<nil>|null")),
            ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", Ok("none")),
            (
                "{{.Foo}}",
                Err(r#"template: :1:2: executing "" at <.Foo>: can't evaluate field Foo"#),
            ),
            (
                "{{.State.Foo.Bar}}",
                Err(
                    r#"template: :1:8: executing "" at <.State.Foo.Bar>: can't evaluate field Foo"#,
                ),
            ),
            (
                "{{with .State}}{{.Foo}}{{end}}",
                Err(r#"template: :1:17: executing "" at <.Foo>: can't evaluate field Foo"#),
            ),
            (
                "{{.State.Health.Status}}",
                Err(
                    r#"template: :1:8: executing "" at <.State.Health.Status>: nil pointer evaluating interface {}.Status"#,
                ),
            ),
            (
                r#"{{(index .State "Foo").Bar}}"#,
                Err(
                    r#"template: :1:16: executing "" at <"Foo">: nil data; no entry for key "Bar""#,
                ),
            ),
            (r#"{{index .State "Foo"}}"#, Ok("<no value>")),
            (
                "{{if .State.Foo}}{{end}}",
                Err(r#"template: :1:11: executing "" at <.State.Foo>: can't evaluate field Foo"#),
            ),
        ],
    );
}

#[test]
fn maps_have_what_they_have() {
    let data = container();
    let labels = data["Config"]["Labels"].as_object();
    // The caller's own objects are handed back, not copies of them.
    let maps = |map: &serde_json::Map<String, Value>| {
        labels.is_some_and(|labels| std::ptr::eq(labels, map)).then(|| json!(""))
    };
    let options = Options { missing: Missing::Error, maps: Some(&maps), ..Options::default() };
    let cases = [
        ("{{.Config.Labels.tier}}|{{.Config.Labels.nope}}", "web|<no value>"),
        (r#"{{index .Config.Labels "com.example.a"}}|"#, "1|"),
        (r#"{{index .Config.Labels "nope"}}|"#, "|"),
        (r#"{{with .Config}}{{index .Labels "nope" | printf "%q"}}{{end}}"#, r#""""#),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}", "com.example.a=1 tier=web "),
    ];
    for (template, expected) in cases {
        let template = Template::parse(template).expect(template);
        let rendered = template.render(&data, &options);
        assert_eq!(rendered.as_deref(), Ok(expected), "{}", template.source());
    }
    let failure = Template::parse("{{.Config.Foo}}").expect("a template").render(&data, &options);
    assert_eq!(failure.expect_err("not a map").message(), "can't evaluate field Foo");
}

/// Methods of a container, and one of any string.
fn methods(receiver: &Value, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    match (name, args) {
        ("Label", [Value::String(label)]) => {
            let labels = &receiver["Config"]["Labels"];
            Some(Ok(labels.get(label).cloned().unwrap_or(json!(""))))
        }
        ("Label", _) => Some(Err(Error::new("wants a name"))),
        ("Shout", []) => receiver.as_str().map(|text| Ok(json!(text.to_uppercase()))),
        ("Sum", numbers) => Some(Ok(json!(numbers.iter().filter_map(Value::as_i64).sum::<i64>()))),
        ("Inner", []) => Some(Ok(json!({"List": [{"A": "x"}, {"A": "y"}], "Nil": null}))),
        _ => None,
    }
}

#[test]
fn methods_are_called() {
    let options = Options { methods: Some(&methods), ..Options::default() };
    check(
        &options,
        &[
            (r#"{{.Label "tier"}}|{{.Label "nope"}}|"#, Ok("web||")),
            (r#"{{"tier" | .Label | upper}}"#, Ok("WEB")),
            (r#"{{(.Label "tier") | len}} {{$.Label "tier"}}"#, Ok("3 web")),
            (r#"{{range $l := split "tier nope" " "}}<{{$.Label $l}}>{{end}}"#, Ok("<web><>")),
            ("{{.State.Status.Shout}}", Ok("RUNNING")),
            (r#"{{.Sum 1 (len "ab") .Config.Env}}|{{3 | .Sum 4}}|{{.Sum nil}}"#, Ok("3|7|0")),
            ("{{range .Inner.List}}{{.A}}{{end}}{{(index .Inner.List 1).A}}", Ok("xyy")),
            (
                "{{$i := .Inner}}{{$i.Nil}}{{len $i.List}}{{(slice $i.List 1) | json}}",
                Ok(r#"<nil>2[{"A":"y"}]"#),
            ),
            ("{{.Unknown}}", Ok("<no value>")),
            (
                "{{.Label 1}}",
                Err(
                    r#"template: :1:2: executing "" at <.Label>: error calling Label: wants a name"#,
                ),
            ),
            (
                "{{.Unknown 1}}",
                Err(
                    r#"template: :1:2: executing "" at <.Unknown>: Unknown is not a method but has arguments"#,
                ),
            ),
            (
                "{{.State.Status.Label.X 1}}",
                Err(
                    r#"template: :1:8: executing "" at <.State.Status.Label.X>: error calling Label: wants a name"#,
                ),
            ),
        ],
    );
}

#[test]
fn methods_stand_in_for_missing_fields() {
    let absent = |_: &Value, name: &str, args: &[Value]| {
        (name == "Node" && args.is_empty()).then_some(Ok(Value::Null))
    };
    let options = Options { missing: Missing::Error, methods: Some(&absent), ..Options::default() };
    check(
        &options,
        &[
            ("{{if .Node}}y{{else}}n{{end}}|{{.Node}}", Ok("n|<nil>")),
            (
                "{{.Mode}}",
                Err(r#"template: :1:2: executing "" at <.Mode>: can't evaluate field Mode"#),
            ),
        ],
    );
}

#[test]
fn headers_stay_as_they_are() {
    let headers = json!({"ID": "CONTAINER ID", "Names": "NAMES"});
    let options = Options { header: true, ..Options::default() };
    let cases = [
        ("{{.ID}}\t{{lower .Names}}\t{{.Names | title}}", "CONTAINER ID\tNAMES\tNAMES"),
        ("{{json .Names}} {{upper .Names}} {{truncate .ID 2}}", "NAMES NAMES CONTAINER ID"),
        (
            r#"{{join .Names ","}} {{split .ID " "}} {{(lower .ID) | truncate .Names}}"#,
            "NAMES CONTAINER ID NAMES",
        ),
        (r#"{{pad .Names 1 1}}|{{printf "%.2s" .Names}}|{{len .Names}}"#, " NAMES |NA|5"),
        ("{{.Nope}}", "<no value>"),
    ];
    for (template, expected) in cases {
        let template = Template::parse(template).expect(template);
        let rendered = template.render(&headers, &options);
        assert_eq!(rendered.as_deref(), Ok(expected), "{}", template.source());
    }
}
