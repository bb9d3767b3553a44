//! What fails when a template is rendered.

use crate::refuse;

#[test]
fn fields_that_are_not_there() {
    refuse(&[
        ("{{.m.a | lower | .nope 1}}", (1, 17), ".nope", "nope is not a method but has arguments"),
        ("{{.s 1}}", (1, 2), ".s", "s is not a method but has arguments"),
        ("{{1 | .s}}", (1, 6), ".s", "s is not a method but has arguments"),
        ("{{.nil.x.y}}", (1, 6), ".nil.x.y", "nil pointer evaluating interface {}.x"),
        ("{{$q := .s}}{{$q.x}}", (1, 16), "$q.x", "can't evaluate field x in type string"),
        ("{{$q := .l}}{{$q.x}}", (1, 16), "$q.x", "can't evaluate field x in type []interface {}"),
        ("{{(print 1).x}}", (1, 9), "1", "can't evaluate field x in type string"),
    ]);
}

#[test]
fn what_takes_no_arguments() {
    refuse(&[
        ("{{1 2}}", (1, 2), "1", "can't give argument to non-function 1"),
        ("{{(1) 2}}", (1, 2), "(1) 2", "can't give argument to non-function 1"),
        ("{{$x := .s}}{{$x 1}}", (1, 14), "$x", "can't give argument to non-function $x"),
        ("{{1 | $}}", (1, 6), "$", "can't give argument to non-function $"),
        ("{{true 1}}", (1, 2), "true", "can't give argument to non-function true"),
        ("{{. 1}}", (1, 2), ".", "can't give argument to non-function ."),
        (r#"{{"a" "b"}}"#, (1, 2), r#""a""#, r#"can't give argument to non-function "a""#),
        ("{{nil}}", (1, 2), "nil", "nil is not a command"),
        ("{{if nil}}{{end}}", (1, 5), "nil", "nil is not a command"),
        (
            "{{18446744073709551615}}",
            (1, 2),
            "18446744073709551615",
            "18446744073709551615 overflows int",
        ),
    ]);
}

#[test]
fn variables_that_are_not_there() {
    refuse(&[
        ("{{$y = 1}}", (1, 7), "1", "undefined variable: $y"),
        ("{{if .e}}{{$v := 1}}{{else}}{{$v}}{{end}}", (1, 30), "$v", "undefined variable: $v"),
    ]);
}

#[test]
fn what_has_no_elements() {
    refuse(&[
        ("{{range .s}}x{{end}}", (1, 8), ".s", "range can't iterate over abc"),
        ("{{range .b}}x{{end}}", (1, 8), ".b", "range can't iterate over true"),
        ("{{range 1.5}}x{{end}}", (1, 8), "1.5", "range can't iterate over 1.5"),
        (
            "{{range $i, $e := 3}}{{$i}}{{$e}}{{end}}",
            (1, 18),
            "3",
            "can't use 3 to iterate over more than one variable",
        ),
    ]);
}

#[test]
fn templates_that_are_not_there() {
    refuse(&[
        (
            r#"{{template "nope"}}"#,
            (1, 11),
            r#"{{template "nope"}}"#,
            r#"template "nope" not defined"#,
        ),
        (
            r#"{{template "nope" .s}}"#,
            (1, 11),
            r#"{{template "nope" .s}}"#,
            r#"template "nope" not defined"#,
        ),
    ]);
}

#[test]
fn numbers_of_arguments() {
    refuse(&[
        ("{{len}}", (1, 2), "len", "wrong number of args for len: want 1 got 0"),
        ("{{len 1 2}}", (1, 2), "len", "wrong number of args for len: want 1 got 2"),
        ("{{not}}", (1, 2), "not", "wrong number of args for not: want 1 got 0"),
        ("{{not 1 2}}", (1, 2), "not", "wrong number of args for not: want 1 got 2"),
        ("{{and}}", (1, 2), "and", "wrong number of args for and: want at least 1 got 0"),
        ("{{or}}", (1, 2), "or", "wrong number of args for or: want at least 1 got 0"),
        ("{{eq}}", (1, 2), "eq", "wrong number of args for eq: want at least 1 got 0"),
        ("{{ne 1}}", (1, 2), "ne", "wrong number of args for ne: want 2 got 1"),
        ("{{ne 1 2 3}}", (1, 2), "ne", "wrong number of args for ne: want 2 got 3"),
        ("{{index}}", (1, 2), "index", "wrong number of args for index: want at least 1 got 0"),
        ("{{slice}}", (1, 2), "slice", "wrong number of args for slice: want at least 1 got 0"),
        ("{{call}}", (1, 2), "call", "wrong number of args for call: want at least 1 got 0"),
        ("{{printf}}", (1, 2), "printf", "wrong number of args for printf: want at least 1 got 0"),
        ("{{json}}", (1, 2), "json", "wrong number of args for json: want 1 got 0"),
        ("{{split .s}}", (1, 2), "split", "wrong number of args for split: want 2 got 1"),
        ("{{title 1 2}}", (1, 2), "title", "wrong number of args for title: want 1 got 2"),
        ("{{.m.a | lower 1}}", (1, 9), "lower", "wrong number of args for lower: want 1 got 2"),
        ("{{print lower}}", (1, 8), "lower", "wrong number of args for lower: want 1 got 0"),
        ("{{len.x}}", (1, 2), "len", "wrong number of args for len: want 1 got 0"),
        ("{{html .s | len.x}}", (1, 12), "len", "wrong number of args for len: want 1 got 0"),
    ]);
}

#[test]
fn types_of_arguments() {
    refuse(&[
        ("{{lower 1}}", (1, 8), "1", "expected string; found 1"),
        ("{{lower true}}", (1, 8), "true", "expected string; found true"),
        ("{{lower nil}}", (1, 8), "nil", "cannot assign nil to string"),
        ("{{lower .b}}", (1, 8), ".b", "wrong type for value; expected string; got bool"),
        ("{{lower .nope}}", (1, 8), ".nope", "invalid value; expected string"),
        (
            "{{lower .nil}}",
            (1, 8),
            ".nil",
            "wrong type for value; expected string; got interface {}",
        ),
        ("{{lower .l}}", (1, 8), ".l", "wrong type for value; expected string; got []interface {}"),
        ("{{lower .f}}", (1, 8), ".f", "wrong type for value; expected string; got float64"),
        ("{{.f | lower}}", (1, 7), "lower", "wrong type for value; expected string; got float64"),
        (
            r#"{{join .mix ","}}"#,
            (1, 7),
            ".mix",
            "wrong type for value; expected []string; got []interface {}",
        ),
        (r#"{{join "a" ","}}"#, (1, 7), r#""a""#, r#"can't handle "a" for arg of type []string"#),
        (r#"{{join .s ","}}"#, (1, 7), ".s", "wrong type for value; expected []string; got string"),
        (r#"{{join 1 ","}}"#, (1, 7), "1", "can't handle 1 for arg of type []string"),
        (r#"{{split "a" 1}}"#, (1, 12), "1", "expected string; found 1"),
        (r#"{{pad "x" "1" 0}}"#, (1, 10), r#""1""#, r#"expected integer; found "1""#),
        (r#"{{pad "x" .f 0}}"#, (1, 10), ".f", "wrong type for value; expected int; got float64"),
        (r#"{{pad "x" 1.5 0}}"#, (1, 10), "1.5", "expected integer; found 1.5"),
        (r#"{{pad "x" nil 0}}"#, (1, 10), "nil", "cannot assign nil to int"),
        (
            r#"{{truncate "abc" .s}}"#,
            (1, 17),
            ".s",
            "wrong type for value; expected int; got string",
        ),
        ("{{printf 1}}", (1, 9), "1", "expected string; found 1"),
        ("{{printf .f}}", (1, 9), ".f", "wrong type for value; expected string; got float64"),
        ("{{printf .nope}}", (1, 9), ".nope", "invalid value; expected string"),
        ("{{and 1 (lower 1)}}", (1, 15), "1", "expected string; found 1"),
        ("{{if lower 1}}{{end}}", (1, 11), "1", "expected string; found 1"),
    ]);
}

#[test]
fn comparisons() {
    refuse(&[
        ("{{eq 1 1.0}}", (1, 2), "eq 1 1.0", "error calling eq: incompatible types for comparison"),
        (
            r#"{{eq 1 "a"}}"#,
            (1, 2),
            r#"eq 1 "a""#,
            "error calling eq: incompatible types for comparison",
        ),
        (
            r#"{{eq 1 2 "a"}}"#,
            (1, 2),
            r#"eq 1 2 "a""#,
            "error calling eq: incompatible types for comparison",
        ),
        ("{{eq 1}}", (1, 2), "eq 1", "error calling eq: missing argument for comparison"),
        ("{{eq .s .l}}", (1, 2), "eq .s .l", "error calling eq: incompatible types for comparison"),
        (
            "{{lt true false}}",
            (1, 2),
            "lt true false",
            "error calling lt: invalid type for comparison",
        ),
        ("{{lt .nil 1}}", (1, 2), "lt .nil 1", "error calling lt: invalid type for comparison"),
        (
            r#"{{lt 1 "a"}}"#,
            (1, 2),
            r#"lt 1 "a""#,
            "error calling lt: incompatible types for comparison",
        ),
        ("{{lt 1 1.5}}", (1, 2), "lt 1 1.5", "error calling lt: incompatible types for comparison"),
        ("{{lt .l .l}}", (1, 2), "lt .l .l", "error calling lt: invalid type for comparison"),
        ("{{gt .m 1}}", (1, 2), "gt .m 1", "error calling gt: invalid type for comparison"),
    ]);
}

#[test]
fn len_index_slice() {
    refuse(&[
        ("{{len 1}}", (1, 2), "len 1", "error calling len: len of type int"),
        ("{{len .nil}}", (1, 2), "len .nil", "error calling len: len of nil pointer"),
        ("{{len true}}", (1, 2), "len true", "error calling len: len of type bool"),
        ("{{index .l -1}}", (1, 2), "index .l -1", "error calling index: index out of range: -1"),
        ("{{index .l 9}}", (1, 2), "index .l 9", "error calling index: index out of range: 9"),
        (
            r#"{{index .l "a"}}"#,
            (1, 2),
            r#"index .l "a""#,
            "error calling index: cannot index slice/array with type string",
        ),
        (
            "{{index .l 1.5}}",
            (1, 2),
            "index .l 1.5",
            "error calling index: cannot index slice/array with type float64",
        ),
        (
            "{{index .l nil}}",
            (1, 2),
            "index .l nil",
            "error calling index: cannot index slice/array with nil",
        ),
        (
            "{{index .m 1}}",
            (1, 2),
            "index .m 1",
            "error calling index: value has type int; should be string",
        ),
        (
            "{{index .m nil}}",
            (1, 2),
            "index .m nil",
            "error calling index: value is nil; should be of type string",
        ),
        (
            r#"{{index .nope "x"}}"#,
            (1, 2),
            r#"index .nope "x""#,
            "error calling index: index of untyped nil",
        ),
        (
            r#"{{index .nil "x"}}"#,
            (1, 2),
            r#"index .nil "x""#,
            "error calling index: index of untyped nil",
        ),
        (
            r#"{{index .m "q" "x"}}"#,
            (1, 2),
            r#"index .m "q" "x""#,
            "error calling index: index of nil pointer",
        ),
        (
            r#"{{index .m "a" "x"}}"#,
            (1, 2),
            r#"index .m "a" "x""#,
            "error calling index: cannot index slice/array with type string",
        ),
        ("{{index 1 1}}", (1, 2), "index 1 1", "error calling index: can't index item of type int"),
        (
            "{{slice .s 2 1}}",
            (1, 2),
            "slice .s 2 1",
            "error calling slice: invalid slice index: 2 > 1",
        ),
        ("{{slice .s 4}}", (1, 2), "slice .s 4", "error calling slice: index out of range: 4"),
        (
            "{{slice .s 0 1 2}}",
            (1, 2),
            "slice .s 0 1 2",
            "error calling slice: cannot 3-index slice a string",
        ),
        (
            "{{slice .l 0 1 2 3}}",
            (1, 2),
            "slice .l 0 1 2 3",
            "error calling slice: too many slice indexes: 4",
        ),
        (
            "{{slice .l 2 1 0}}",
            (1, 2),
            "slice .l 2 1 0",
            "error calling slice: invalid slice index: 2 > 1",
        ),
        (
            "{{slice .l 0 2 1}}",
            (1, 2),
            "slice .l 0 2 1",
            "error calling slice: invalid slice index: 2 > 1",
        ),
        ("{{slice .l 0 9}}", (1, 2), "slice .l 0 9", "error calling slice: index out of range: 9"),
        (
            r#"{{slice .l "a"}}"#,
            (1, 2),
            r#"slice .l "a""#,
            "error calling slice: cannot index slice/array with type string",
        ),
        ("{{slice 1 0}}", (1, 2), "slice 1 0", "error calling slice: can't slice item of type int"),
        (
            "{{slice .m 0}}",
            (1, 2),
            "slice .m 0",
            "error calling slice: can't slice item of type map[string]interface {}",
        ),
        ("{{slice nil 0}}", (1, 2), "slice nil 0", "error calling slice: slice of untyped nil"),
        ("{{slice .nope 0}}", (1, 2), "slice .nope 0", "error calling slice: slice of untyped nil"),
        ("{{call nil}}", (1, 2), "call nil", "error calling call: call of nil"),
        ("{{call .nope}}", (1, 2), "call .nope", "error calling call: call of nil"),
    ]);
}

#[test]
fn lines() {
    refuse(&[
        ("x\ny {{lower 1}}", (2, 10), "1", "expected string; found 1"),
        (
            "{{if .b}}\n\n  {{index .l\n9}}{{end}}",
            (3, 4),
            "index .l 9",
            "error calling index: index out of range: 9",
        ),
    ]);
}
