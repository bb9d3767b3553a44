//! Templates that would use up the stack, the memory or the time.

use gantry_template::{Options, Template};

use crate::render;

fn message(template: &str, limit: usize) -> String {
    let options = Options { limit, ..Options::default() };
    render(template, &options).expect_err("a bound").message().to_owned()
}

#[test]
fn nesting_is_bounded() {
    let parens = |n: usize| format!("{{{{{}1{}}}}}", "(".repeat(n), ")".repeat(n));
    let ifs = |n: usize| format!("{}x{}", "{{if 1}}".repeat(n), "{{end}}".repeat(n));
    let options = Options::default();
    assert_eq!(render(&parens(60), &options).as_deref(), Ok("1"));
    assert_eq!(render(&ifs(60), &options).as_deref(), Ok("x"));
    let blocks = r#"{{block "a" .}}"#.repeat(100_000);
    for deep in [parens(100_000), ifs(100_000), blocks] {
        let failure = Template::parse(&deep[..deep.len().min(1 << 20)]).expect_err("a bound");
        assert_eq!(failure.message(), "nested more than 64 levels deep");
    }
    // A chain is not deep.
    let chain = format!("{{{{if 0}}}}{}{{{{else}}}}x{{{{end}}}}", "{{else if 0}}".repeat(10_000));
    assert_eq!(render(&chain, &options).as_deref(), Ok("x"));
}

#[test]
fn recursion_is_bounded() {
    let recursive = [
        r#"{{define "r"}}{{template "r" .}}{{end}}{{template "r" .}}"#,
        r#"{{template ""}}"#,
        r#"{{define "a"}}{{if 1}}{{template "b"}}{{end}}{{end}}{{define "b"}}{{range 2}}{{template "a"}}{{end}}{{end}}{{template "a"}}"#,
    ];
    for template in recursive {
        let message = message(template, usize::MAX);
        assert_eq!(message, "exceeded maximum template depth (200)", "{template}");
    }
}

#[test]
fn steps_are_bounded() {
    let endless = ["{{range 9000000000}}{{end}}", "{{range 100000}}{{range 100000}}{{end}}{{end}}"];
    for template in endless {
        assert_eq!(message(template, usize::MAX), "takes more than 1000000 steps", "{template}");
    }
}

#[test]
fn output_is_bounded() {
    let output = "makes more than 1000 bytes";
    assert_eq!(message("{{range 2000}}x{{end}}", 1000), output);
    assert_eq!(message("{{range 2000}}{{$.s}}{{end}}", 1000), output);
    assert_eq!(message(&"x".repeat(1001), 1000), output);
    let options = Options { limit: 1000, ..Options::default() };
    assert_eq!(render(&"x".repeat(1000), &options), Ok("x".repeat(1000)));
}

#[test]
fn what_is_computed_is_bounded() {
    let of = |function: &str, c: &str, count: usize| {
        format!(r#"{{{{{function} "{}" | len}}}}"#, c.repeat(count))
    };
    let doubling = r#"{{$x := "0123456789"}}{{range 100}}{{$x = print $x $x}}{{end}}"#;
    let cases = [
        ("print", doubling.to_owned()),
        ("pad", r#"{{pad "x" 1000000000000 0}}"#.to_owned()),
        ("pad", r#"{{pad "x" 9000 9000}}"#.to_owned()),
        ("printf", r#"{{printf "%9999999d" 1}}"#.to_owned()),
        ("printf", r#"{{printf "%9000d%9000d" 1 1}}"#.to_owned()),
        ("printf", of(r#"printf "%q""#, "\u{2028}", 2000)),
        ("split", format!(r#"{{{{split "{}" ""}}}}"#, "x".repeat(1000))),
        ("html", of("html", "<", 4000)),
        ("urlquery", of("urlquery", "<", 4000)),
        ("js", of("js", "<", 4000)),
        ("json", of("json", "\u{2028}", 2000)),
    ];
    for (function, template) in cases {
        let expected = format!("error calling {function}: more output than the limit");
        assert_eq!(message(&template, 10_000), expected, "{template}");
    }
}

#[test]
fn what_is_kept_is_bounded() {
    // Each of these is small; together they are not.
    let kept: String = (0..1000).map(|n| format!("{{{{$x{n} := slice .l}}}}")).collect();
    assert_eq!(message(&kept, 10_000), "makes more than 10000 bytes");
}

#[test]
fn long_templates_are_refused() {
    let failure = Template::parse(&"x".repeat((1 << 20) + 1)).expect_err("a bound");
    assert_eq!(failure.to_string(), "template: longer than 1048576 bytes");
    assert_eq!(failure.position(), None);
}
