//! The functions, other than `printf`.

use crate::check;

#[test]
fn and_or_not() {
    check(&[
        ("{{and 1 2}} {{and 0 2}} {{and true}} {{1 | and 0}} {{2 | and 1}}", "2 0 true 0 2"),
        ("{{or 0 2}} {{or 1 2}} {{or false}} {{0 | or 0}}", "2 1 false 0"),
        (r#"{{or "" .el nil}}"#, "<no value>"),
        ("{{and .nope 1}}", "<no value>"),
        (r#"{{or .nope "d"}}"#, "d"),
        ("{{not 1}} {{not 0}} {{not nil}} {{not .nope}} {{not .e}}", "false true true true true"),
        ("{{or 1 (index .l 99)}} {{and 0 (index .l 99)}}", "1 0"),
    ]);
}

#[test]
fn comparisons() {
    check(&[
        ("{{eq 1 1}} {{eq 1 2}} {{eq 1 2 3 1}}", "true false true"),
        (r#"{{eq "a" "a"}} {{eq .s "abc" "x"}} {{ne "a" "b"}} {{ne 1 1}}"#, "true true true false"),
        ("{{eq true true}} {{eq true false}}", "true false"),
        ("{{eq 1.5 .f}} {{lt 1.5 2.5}} {{ge 1.5 1.5}}", "true true true"),
        (
            "{{lt 1 2}} {{lt 2 2}} {{le 2 2}} {{le 3 2}} {{gt 3 2}} {{gt 2 2}} {{ge 2 2}} {{ge 1 2}}",
            "true false true false true false true false",
        ),
        (r#"{{lt "a" "b"}} {{gt "b" "a"}} {{lt -1 0}}"#, "true true true"),
        (
            "{{eq .nil nil}} {{eq .nope nil}} {{eq nil nil}} {{eq .nil .nope}} {{ne .nil nil}}",
            "true true true true false",
        ),
        (
            "{{eq .s nil}} {{eq nil .s}} {{eq .m nil}} {{eq .l nil}} {{eq 1 nil}}",
            "false false false false false",
        ),
        (r#"{{eq "a" nil "a"}} {{eq nil 1 nil}}"#, "true true"),
        ("{{eq 'a' 97}} {{eq (index .s 0) 97}}", "true true"),
    ]);
}

#[test]
fn len_index_slice() {
    check(&[
        (r#"{{len "日本"}} {{len .l}} {{len .m}} {{len .e}} {{len .el}}"#, "6 3 3 0 0"),
        (r#"{{index .l 1}} {{index .s 0}} {{index .mix 5 "k"}}"#, "b 97 v"),
        (r#"{{index .deep "a" "b" "c"}}"#, "leaf"),
        ("{{index .l}}", "[a b c]"),
        (r#"{{index .m "b"}} {{index .m "missing"}}"#, "2 <no value>"),
        (r#"{{"b" | index .m}}"#, "2"),
        (
            "{{slice .s}} {{slice .s 1}} {{slice .s 1 2}} {{slice .s 0 0}}|{{slice .s 3}}",
            "abc bc b |",
        ),
        ("{{slice .l 1}} {{slice .l 0 2}} {{slice .l 0 1 2}} {{slice .l 3}}", "[b c] [a b] [a] []"),
        (r#"{{slice "日本" 0 3}}"#, "日"),
    ]);
}

#[test]
fn printing_functions() {
    check(&[
        ("{{print}}|{{print 1 2}}|{{print true false}}", "|1 2|true false"),
        (r#"{{print "a" 1 "b"}}|{{print "a" "b"}}|{{print 1 nil 2 "x" 3}}"#, "a1b|ab|1 <nil> 2x3"),
        ("{{print nil nil}}|{{print .nope}}|{{print .nil}}", "<nil> <nil>|<nil>|<nil>"),
        ("{{print .l .m}}", "[a b c] map[a:1 b:2 c:3]"),
        (r#"{{println}}|{{println "a" 1 nil}}|{{println "a" "b"}}"#, "\n|a 1 <nil>\n|a b\n"),
    ]);
}

#[test]
fn escaping_functions() {
    check(&[
        ("{{html .h}}", "&lt;a href=&#39;x&#39;&gt;&#34;&amp;&#34;&lt;/a&gt;"),
        ("{{js .h}}", r#"\u003Ca href\u003D\'x\'\u003E\"\u0026\"\u003C/a\u003E"#),
        ("{{urlquery .h}}", "%3Ca+href%3D%27x%27%3E%22%26%22%3C%2Fa%3E"),
        (r#"{{urlquery "a b-_.~/é"}}"#, "a+b-_.~%2F%C3%A9"),
        (r#"{{html 1 2 "x"}}|{{js 1 2}}|{{urlquery 1 "a" nil}}"#, "1 2x|1 2|1a%3Cno+value%3E"),
        (
            "{{html .nope}}|{{js .nope}}|{{urlquery .nope .nope}}",
            r"&lt;no value&gt;|\u003Cno value\u003E|%3Cno+value%3E%3Cno+value%3E",
        ),
        ("{{js .ctl}}", "a\\u0009b\\u000Ac\\u0001\u{7f}\\u00A0\\u2028é"),
        (
            r#"{{js "a=b&c\\"}}|{{js "\x00\x1f"}}|{{js "日😀"}}"#,
            r"a\u003Db\u0026c\\|\u0000\u001F|日😀",
        ),
        (r#"{{html "\x00a"}}"#, "�a"),
        ("{{html}}{{js}}{{urlquery}}|{{html .m}}|{{html .l 1}}", "|map[a:1 b:2 c:3]|[a b c] 1"),
    ]);
}

#[test]
fn dockers_json() {
    check(&[
        (
            "{{json .s}}|{{json .nope}}|{{json .nil}}|{{json 1}}|{{json 1.5}}|{{json true}}",
            r#""abc"|null|null|1|1.5|true"#,
        ),
        (r#"{{json "a<b"}}|{{json .h}}"#, r#""a<b"|"<a href='x'>\"&\"</a>""#),
        (
            "{{json .l}}|{{json .m}}|{{json .mix}}|{{json .el}}|{{json .em}}|{{json .deep}}",
            r#"["a","b","c"]|{"a":"1","b":"2","c":"3"}|["x",1,null,true,[1],{"k":"v"}]|[]|{}|{"a":{"b":{"c":"leaf"}}}"#,
        ),
        ("{{json .ctl}}", "\"a\\tb\\nc\\u0001\u{7f}\u{a0}\\u2028é\""),
        (r#"{{json "\b\f\v\r\u2029\"\\"}}"#, r#""\b\f\u000b\r\u2029\"\\""#),
        (
            "{{json 1e21}} {{json 1e20}} {{json 1e-7}} {{json 0.000001}} {{json 1.0}} {{json 1.5e300}} {{json -0.0}} {{json .tiny}}",
            "1e+21 100000000000000000000 1e-7 0.000001 1 1.5e+300 -0 0.00001",
        ),
        (r#"{{json (split "a,b" ",")}}"#, r#"["a","b"]"#),
        ("{{.l | json}}", r#"["a","b","c"]"#),
    ]);
}

#[test]
fn dockers_strings() {
    check(&[
        (
            r#"{{split "a,b,c" ","}}|{{split "abc" ""}}|{{split "a" "bb"}}|{{split "" ","}}"#,
            "[a b c]|[a b c]|[a]|[]",
        ),
        (r#"{{len (split "" "")}} {{len (split "" ",")}} {{index (split "a:b" ":") 1}}"#, "0 1 b"),
        (
            r#"{{join (split "a,b,c" ",") "-"}}|{{join nil ","}}|{{join .nope ","}}|{{join (split "a" ",") "-"}}"#,
            "a-b-c|||a",
        ),
        (
            r#"{{title "hello world foo-bar_baz it's 1st éa"}}"#,
            "Hello World Foo-Bar_baz It'S 1st Éa",
        ),
        (r#"{{title "a.b,c/d\te"}}|{{title "日本 éa"}}|{{title ""}}"#, "A.B,C/D\tE|日本 Éa|"),
        (
            r#"{{lower "ABC Éİ"}}|{{lower "ΑΣ"}}|{{upper "abc éß"}}|{{upper "ŉ ﬁ"}}|{{"x" | upper | lower}}"#,
            "abc éi|ασ|ABC Éß|ŉ ﬁ|x",
        ),
        (
            r#"{{pad "x" 1 2}}|{{pad "" 1 2}}|{{pad "日" 2 2}}|{{pad .s (len .l) 0}}|{{1 | pad "x" 0}}|{{len (pad "x" 'a' 0)}}"#,
            " x  ||  日  |   abc|x |98",
        ),
        (
            r#"{{truncate "hello" 3}}|{{truncate "hi" 5}}|{{truncate "hi" 2}}|{{truncate "" 0}}|{{2 | truncate "abc"}}"#,
            "hel|hi|hi||ab",
        ),
        (
            r#"{{truncate "abc" 2.0}}|{{truncate "abc" 0x2}}|{{truncate "abc" 'a'}}|{{truncate .s (len "ab")}}"#,
            "ab|ab|abc|ab",
        ),
    ]);
}
