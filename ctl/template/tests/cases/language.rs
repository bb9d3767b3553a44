//! Texts, literals, variables and actions.

use crate::check;

#[test]
fn texts_and_trim_markers() {
    check(&[
        ("", ""),
        ("plain", "plain"),
        ("{ { }} }", "{ { }} }"),
        ("a{{/* comment */}}b", "ab"),
        ("a {{- /* comment */ -}} b", "ab"),
        (r#"a {{- "b" -}} c"#, "abc"),
        (r#"a {{- "b"}} c"#, "ab c"),
        (r#"a {{"b" -}} c"#, "a bc"),
        ("a\n \t{{- \"b\" -}}\r\n c", "abc"),
        ("x {{-\n\"y\"\n-}} z", "xyz"),
        ("{{- 3}}", "3"),
        ("{{-3}}", "-3"),
        ("{{3 -}} |", "3|"),
        ("{{- -3 -}} |", "-3|"),
        ("{{ \"a\"\n|\nupper }}", "A"),
        ("{{print\n1\n2}}", "1 2"),
        (r#"{{"}}"}}{{"{{"}}"#, "}}{{"),
        (r#"{{"a"|}}"#, "a"),
    ]);
}

#[test]
fn literals() {
    check(&[
        ("{{1}} {{-1}} {{+1}} {{0}} {{-0}}", "1 -1 1 0 0"),
        ("{{0x1F}} {{0X1f}} {{0b101}} {{0o17}} {{017}}", "31 31 5 15 15"),
        ("{{1_000}} {{0x_1F}} {{1_0.5}}", "1000 31 10.5"),
        (
            "{{1.5}} {{.5}} {{1.}} {{1.0}} {{1e3}} {{1E3}} {{-0.0}} {{1e5}}",
            "1.5 0.5 1 1 1000 1000 -0 100000",
        ),
        (
            "{{9223372036854775807}} {{-9223372036854775808}}",
            "9223372036854775807 -9223372036854775808",
        ),
        (
            r"{{'a'}} {{'\n'}} {{'\''}} {{'\x41'}} {{'日'}} {{'\u65e5'}} {{'\101'}}",
            "97 10 39 65 26085 26085 65",
        ),
        (r#"{{"a\tb\n\"q\"\\\x41\101\u00e9\U0001F600"}}"#, "a\tb\n\"q\"\\AAé😀"),
        (r#"{{"\a\b\f\r\v"}}"#, "\u{7}\u{8}\u{c}\r\u{b}"),
        (r#"{{"\xe6\x97\xa5"}}"#, "日"),
        (r#"{{`raw \n "x"`}}"#, r#"raw \n "x""#),
        ("{{`a\nb`}}", "a\nb"),
        ("{{true}} {{false}}", "true false"),
    ]);
}

#[test]
fn fields_and_variables() {
    check(&[
        ("{{.s}}", "abc"),
        ("{{.deep.a.b.c}}", "leaf"),
        ("{{$.s}}", "abc"),
        ("{{$.deep.a.b.c}}", "leaf"),
        ("{{.nope}}", "<no value>"),
        ("{{.nope.x.y}}", "<no value>"),
        ("{{.deep.a.x.y}}", "<no value>"),
        ("{{.日}}", "<no value>"),
        ("{{$x := 1}}{{$x}}{{$x = 2}}{{$x}}", "12"),
        ("{{$x := 1}}{{if true}}{{$x = 3}}{{$x := 4}}{{$x}}{{end}}{{$x}}", "43"),
        ("{{$y := .deep}}{{$y.a.b.c}}", "leaf"),
        ("{{$x:=.s}}{{$x}}", "abc"),
        (r#"{{$x := "p"}}{{$x := printf "%s%s" $x $x}}{{$x}}"#, "pp"),
        ("{{$z := .nope}}{{$z}}", "<no value>"),
    ]);
}

#[test]
fn pipelines_and_parentheses() {
    check(&[
        ("{{(.deep).a.b.c}}", "leaf"),
        ("{{(index .obj 1).N}}", "two"),
        (r#"{{(print "a" "b") | upper}}"#, "AB"),
        ("{{print (print 1 2) 3}}", "1 23"),
        ("{{((1))}}", "1"),
        ("{{(.nope).x}}", "<no value>"),
        ("{{len (slice .s 1)}}", "2"),
        (r#"{{(split "a b" " ") | len}}"#, "2"),
        ("{{.s|upper}}", "ABC"),
        ("{{.s |upper| lower}}", "abc"),
        (r#"{{.l | len | printf "%03d"}}"#, "003"),
        (r#"{{"," | split "a,b"}}"#, "[a b]"),
        ("{{1 | print 2}}", "2 1"),
        (r#"{{print "x" | print "y" | print "z"}}"#, "zyx"),
        ("{{.m.a | print | len}}", "1"),
        ("{{($x := 5)}}{{$x}}", "55"),
    ]);
}

#[test]
fn if_chains() {
    check(&[
        ("{{if .s}}y{{end}}", "y"),
        ("{{if .nope}}y{{end}}", ""),
        ("{{if .em}}y{{else}}n{{end}}", "n"),
        ("{{if 0.0}}y{{else}}n{{end}}", "n"),
        ("{{if 0}}y{{else}}n{{end}}", "n"),
        ("{{if .f}}y{{else}}n{{end}}", "y"),
        ("{{if .el}}y{{else}}n{{end}}", "n"),
        ("{{if .b}}y{{else}}n{{end}}", "y"),
        ("{{if .z}}y{{else}}n{{end}}", "n"),
        ("{{if .nil}}y{{else}}n{{end}}", "n"),
        ("{{if not .nope}}y{{end}}", "y"),
        ("{{if .e}}1{{else if .el}}2{{else if .z}}3{{else}}4{{end}}", "4"),
        ("{{if .e}}1{{else if .s}}2{{else if .b}}3{{end}}", "2"),
        ("{{if $x := .s}}{{$x}}{{end}}", "abc"),
        ("{{if $x := .e}}{{else}}[{{$x}}]{{end}}", "[]"),
        (r#"{{if and (eq .s "abc") (gt (len .l) 2)}}y{{end}}"#, "y"),
        ("{{if .s}}{{if .e}}a{{else}}b{{end}}{{else}}c{{end}}", "b"),
    ]);
}

#[test]
fn with_chains() {
    check(&[
        ("{{with .s}}{{.}}{{else}}no{{end}}", "abc"),
        ("{{with .e}}x{{else}}no{{end}}", "no"),
        ("{{with .nope}}x{{else with .s}}{{.}}{{else}}z{{end}}", "abc"),
        ("{{with .nope}}x{{else with .e}}y{{else}}{{.s}}{{end}}", "abc"),
        ("{{with $x := .s}}{{$x}}{{.}}{{end}}", "abcabc"),
        ("{{with .deep}}{{.a.b.c}}{{$.s}}{{end}}", "leafabc"),
        ("{{with .deep}}{{with .a}}{{.b.c}}{{end}}{{end}}{{.s}}", "leafabc"),
    ]);
}

#[test]
fn ranges() {
    check(&[
        ("{{range .l}}{{.}},{{end}}", "a,b,c,"),
        ("{{range $e := .l}}{{$e}}{{end}}", "abc"),
        ("{{range $i, $e := .l}}{{$i}}={{$e}} {{end}}", "0=a 1=b 2=c "),
        ("{{range $k,$v := .m}}{{$k}}={{$v}} {{end}}", "a=1 b=2 c=3 "),
        ("{{range .m}}{{.}}{{end}}", "123"),
        ("{{range $v := .m}}{{$v}}{{end}}", "123"),
        ("{{range .el}}x{{else}}none{{end}}", "none"),
        ("{{range .em}}x{{else}}none{{end}}", "none"),
        ("{{range .nil}}x{{else}}none{{end}}", "none"),
        ("{{range .nope}}x{{else}}none{{end}}", "none"),
        ("{{range .nope}}x{{end}}", ""),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{range $i := 3}}{{$i}}{{end}}", "012"),
        ("{{range 0}}x{{else}}none{{end}}", "none"),
        ("{{range -1}}x{{else}}none{{end}}", "none"),
        (r#"{{range .l}}{{if eq . "b"}}{{continue}}{{end}}{{.}}{{end}}"#, "ac"),
        (r#"{{range .l}}{{if eq . "b"}}{{break}}{{end}}{{.}}{{end}}"#, "a"),
        (
            "{{range $i, $_ := .l}}{{range $.l}}{{if $i}}{{break}}{{end}}{{.}}{{end}};{{end}}",
            "abc;;;",
        ),
        ("{{range .l}}{{range $.el}}{{else}}{{continue}}{{end}}x{{end}}", ""),
        ("{{$x := 0}}{{range $x = .l}}{{$x}}{{end}}{{$x}}", "abcc"),
        ("{{$i := 9}}{{$e := 9}}{{range $i, $e = .l}}{{$i}}{{$e}}{{end}}{{$i}}{{$e}}", "0a1b2c2c"),
        (r#"{{range $x := .l}}{{$x = "q"}}{{$x}}{{end}}"#, "qqq"),
        ("{{range $i, $e := .obj}}{{if $i}}, {{end}}{{$e.N}}{{end}}", "one, two"),
        ("{{range .obj}}{{.N}} {{$.s}} {{end}}", "one abc two abc "),
        (r#"{{range split "a b" " "}}[{{.}}]{{end}}"#, "[a][b]"),
        ("{{range $k, $v := .deep}}{{$k}}{{range $k, $v := $v}}{{$k}}{{end}}{{$k}}{{end}}", "aba"),
    ]);
}
