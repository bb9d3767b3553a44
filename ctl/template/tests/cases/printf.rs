//! Formats of `printf`.

use crate::check;

#[test]
fn every_verb() {
    check(&[
        (
            r#"{{printf "%s %v %d %q %t %x %X %f %e %g %c %U %T %%" "s" 1 2 "q" true 255 255 1.5 1.5 1.5 65 65 "x"}}"#,
            r#"s 1 2 "q" true ff FF 1.500000 1.500000e+00 1.5 A U+0041 string %"#,
        ),
        (
            r#"{{printf "%o %O %b %E %G %F" 8 8 5 1.5 1e21 1.5}}"#,
            "10 0o10 101 1.500000E+00 1E+21 1.500000",
        ),
        (
            r#"{{printf "no verbs"}}|{{printf ""}}|{{printf "%d%%" 50}}|{{printf "%5%|"}}"#,
            "no verbs||50%|%|",
        ),
        (
            r#"{{printf "%é" 1}}|{{printf "%w" 1}}|{{printf "%p" 1}}|{{printf "%z" 1}}"#,
            "%!é(int=1)|%!w(int=1)|%!p(int=1)|%!z(int=1)",
        ),
    ]);
}

#[test]
fn what_is_wrong_with_a_format() {
    check(&[
        (
            r#"{{printf "%d %s" 1}}|{{printf "%!"}}|{{printf "%"}}|{{printf "a%"}}"#,
            "1 %!s(MISSING)|%!!(MISSING)|%!(NOVERB)|a%!(NOVERB)",
        ),
        (
            r#"{{printf "%d" 1 2 "x"}}|{{printf "x" 1 "a" nil .l}}"#,
            "1%!(EXTRA int=2, string=x)|x%!(EXTRA int=1, string=a, <nil>, []interface {}=[a b c])",
        ),
        (
            r#"{{printf "%d" "x"}}|{{printf "%s" 1}}|{{printf "%t" 1}}|{{printf "%f" 1}}|{{printf "%d" 1.5}}|{{printf "%s" true}}"#,
            "%!d(string=x)|%!s(int=1)|%!t(int=1)|%!f(int=1)|%!d(float64=1.5)|%!s(bool=true)",
        ),
        (
            r#"{{printf "%c" "a"}}|{{printf "%U" "a"}}|{{printf "%e" "x"}}|{{printf "%q" 1.5}}|{{printf "%q" true}}|{{printf "%5d" "x"}}"#,
            "%!c(string=a)|%!U(string=a)|%!e(string=x)|%!q(float64=1.5)|%!q(bool=true)|%!d(string=    x)",
        ),
        (
            r#"{{printf "%s" nil}}|{{printf "%v" nil}}|{{printf "%d" nil}}|{{printf "%t" nil}}|{{printf "%5d" nil}}"#,
            "%!s(<nil>)|<nil>|%!d(<nil>)|%!t(<nil>)|%!d(<nil>)",
        ),
        (r#"{{printf "%v" .nope}}|{{printf "%s" .nope}}"#, "<nil>|%!s(<nil>)"),
    ]);
}

#[test]
fn integers() {
    check(&[
        (
            r#"{{printf "%5d|%-5d|%05d|%+d|% d|%+ d" 42 42 42 42 42 42}}"#,
            "   42|42   |00042|+42| 42|+42",
        ),
        (
            r#"{{printf "%08d|%+08d|% 05d|%-010d|%0-10d|" -42 42 5 5 5}}"#,
            "-0000042|+0000042| 0005|5         |5         |",
        ),
        (
            r#"{{printf "%x|%#x|%X|%#X|%o|%#o|%b|%#b|%O" -255 255 -255 -255 42 42 42 5 42}}"#,
            "-ff|0xff|-FF|-0XFF|52|052|101010|0b101|0o52",
        ),
        (r#"{{printf "%#x %#o %#b" 0 0 0}}"#, "0x0 0 0b0"),
        (
            r#"{{printf "%.5d|%8.5d|%-8.5d|%08.5d|%+.3d" 42 42 42 42 7}}"#,
            "00042|   00042|00042   |   00042|+007",
        ),
        (r#"{{printf "%.0d|%.d|%5.0d|%+.0d" 0 0 0 0}}"#, "||     |"),
        (r#"{{printf "%+v|% v|%05v|%#v|%-5v|" 5 5 5 -5 5}}"#, "5| 5|00005|-5|5    |"),
        (
            r#"{{printf "%d" 9223372036854775807}}|{{printf "%x" -9223372036854775808}}"#,
            "9223372036854775807|-8000000000000000",
        ),
    ]);
}

#[test]
fn characters() {
    check(&[
        (r#"{{printf "%c|%q|%U|%#U" 26085 26085 26085 26085}}"#, "日|'日'|U+65E5|U+65E5 '日'"),
        (r#"{{printf "%c|%q|%#q|%+q" 10 10 120 26085}}"#, "\n|'\\n'|'x'|'\\u65e5'"),
        (r#"{{printf "%5c|%-5c|%05c|%5q|" 65 65 65 65}}"#, "    A|A    |0000A|  'A'|"),
        (
            r#"{{printf "%#U|%#.8U|%12U|%-12U|%08U" 7 97 97 97 97}}"#,
            "U+0007|U+00000061 'a'|      U+0061|U+0061      |  U+0061",
        ),
        (r#"{{printf "%c|%c|%q" -1 1114112 1114112}}"#, "�|�|'�'"),
    ]);
}

#[test]
fn strings() {
    check(&[
        (
            r#"{{printf "%5s|%-5s|%.2s|%5.1s|%05s|%-05s|" "ab" "ab" "abc" "abc" "ab" "ab"}}"#,
            "   ab|ab   |ab|    a|000ab|ab   |",
        ),
        (r#"{{printf "%-10s|%10s|%.1s|" "é" "日本" "日本"}}"#, "é         |        日本|日|"),
        (
            r#"{{printf "%q|%#q|%+q|%#q|%#q|%#q" "a\"b" "ab" "é" "a`b" "a\tb" "a\nb"}}"#,
            "\"a\\\"b\"|`ab`|\"\\u00e9\"|\"a`b\"|`a\tb`|\"a\\nb\"",
        ),
        (
            r#"{{printf "%q" "\x00\x7f\u00a0\u2028é😀\a\v"}}|{{printf "%+q" "😀é"}}"#,
            r#""\x00\x7f\u00a0\u2028é😀\a\v"|"\U0001f600\u00e9""#,
        ),
        (
            r#"{{printf "%.1q|%6.1q|%10q|%08q" "日本" "日本" "日" "a"}}"#,
            r#""日"|   "日"|       "日"|00000"a""#,
        ),
        (
            r#"{{printf "%x|% x|%#x|% #x|%X|%#X|%.1x|%8x|" "abc" "abc" "abc" "abc" "xyz" "ab" "日" "ab"}}"#,
            "616263|61 62 63|0x616263|0x61 0x62 0x63|78797A|0X6162|e6|    6162|",
        ),
        (r#"{{printf "%+s|% s|%x|%v|%+v|%#v" "a" "a" "" "x" "x" "a\nb"}}"#, r#"a|a||x|x|"a\nb""#),
        (
            r#"{{printf "%t|%5t|%-6t|%08t|%v" true true false true true}}"#,
            "true| true|false |0000true|true",
        ),
        (
            r#"{{printf "%10T|%-10T|%T %T %T %T %T %T" 1 "a" 1.5 true nil .l .m .nil}}"#,
            "       int|string    |float64 bool <nil> []interface {} map[string]interface {} <nil>",
        ),
    ]);
}

#[test]
fn floats() {
    check(&[
        (
            r#"{{printf "%6.2f|%-8.3f|%08.3f|%+.1f|% .1f|%.f" 3.14159 2.5 -2.5 1.25 2.0 1.5}}"#,
            "  3.14|2.500   |-002.500|+1.2| 2.0|2",
        ),
        (r#"{{printf "%.0f|%.0f|%.0f|%.0f" 0.5 1.5 2.5 3.5}}"#, "0|2|2|4"),
        (
            r#"{{printf "%e|%.2e|%E|%.0e|%012e|%-14e|%+.3e" 123456.789 123456.789 0.00001 1.5 12.345 12.345 12.345}}"#,
            "1.234568e+05|1.23e+05|1.000000E-05|2e+00|1.234500e+01|1.234500e+01  |+1.235e+01",
        ),
        (
            r#"{{printf "%g|%G|%.3g|%.10g|%.1g|%.0g|%.20g" 1e21 1e-7 123456.0 123.0 0.00012345 5.0 0.1}}"#,
            "1e+21|1E-07|1.23e+05|123|0.0001|5|0.10000000000000000555",
        ),
        (
            r#"{{printf "%.5g %.5g %.5G %6.2g|%-10g|%+g|% g" 1234567.0 0.000012345 1e-10 12.345 1.5 -1.5 1.5}}"#,
            "1.2346e+06 1.2345e-05 1E-10     12|1.5       |-1.5| 1.5",
        ),
        (
            r#"{{printf "%v %v %v %v %v %v" 1e20 100000.0 1000000.0 123456.7 0.0001 0.00001}}"#,
            "1e+20 100000 1e+06 123456.7 0.0001 1e-05",
        ),
        (
            r#"{{printf "%6.3v|%8v|%-8v|%08v|%+v|%#v" 1.23456 1.5 1.5 1.5 1.0 1e21}}"#,
            "  1.23|     1.5|1.5     |000001.5|1|1e+21",
        ),
        (
            r#"{{printf "%.3f|%f|%.30f" 1e20 1e21 0.1}}"#,
            "100000000000000000000.000|1000000000000000000000.000000|0.100000000000000005551115123126",
        ),
        (
            r#"{{printf "%.400e" 1.5 | len}} {{printf "%.2000f" 1.5 | len}} {{printf "%.70000f" 1.5 | len}}"#,
            "406 2002 70002",
        ),
        (r#"{{printf "%f %e %g %v" 0.0 0.0 0.0 -0.0}}"#, "0.000000 0.000000e+00 0 -0"),
    ]);
}

#[test]
fn lists_and_maps() {
    check(&[
        (
            r#"{{printf "%v|%s|%q|%x|%d" .l .l .l .l .l}}"#,
            r#"[a b c]|[a b c]|["a" "b" "c"]|[61 62 63]|[%!d(string=a) %!d(string=b) %!d(string=c)]"#,
        ),
        (r#"{{printf "%5v|%-3v|%.1v|" .l .l .l}}"#, "[    a     b     c]|[a   b   c  ]|[a b c]|"),
        (
            r#"{{printf "%v|%s|%q|%d|%5s" .m .m .m .m .m}}"#,
            r#"map[a:1 b:2 c:3]|map[a:1 b:2 c:3]|map["a":"1" "b":"2" "c":"3"]|map[%!d(string=a):%!d(string=1) %!d(string=b):%!d(string=2) %!d(string=c):%!d(string=3)]|map[    a:    1     b:    2     c:    3]"#,
        ),
        (
            r#"{{printf "%v %v|%#v %#v" .el .em .el .em}}"#,
            "[] map[]|[]interface {}{} map[string]interface {}{}",
        ),
        (
            r#"{{printf "%#v" .m}}|{{printf "%#v" .deep}}|{{printf "%+v" .obj}}"#,
            r#"map[string]interface {}{"a":"1", "b":"2", "c":"3"}|map[string]interface {}{"a":map[string]interface {}{"b":map[string]interface {}{"c":"leaf"}}}|[map[N:one] map[N:two]]"#,
        ),
        (r#"{{printf "%t" .l}}"#, "[%!t(string=a) %!t(string=b) %!t(string=c)]"),
    ]);
}

#[test]
fn widths_from_arguments() {
    check(&[
        (r#"{{printf "%*d|%-*d|%.*f|%*d|" 5 1 5 1 2 1.234 -5 1}}"#, "    1|1    |1.23|1    |"),
        (
            r#"{{printf "%*d" "x" 1}}|{{printf "%.*d" -1 7}}|{{printf "%.*f" "x" 1.5}}|{{printf "%*d" 20000000 1}}|{{printf "%*d" 5}}"#,
            "%!(BADWIDTH)1|%!(BADPREC)7|%!(BADPREC)1.500000|%!(BADWIDTH)1|%!d(MISSING)",
        ),
        (
            r#"{{printf "%99999999d" 1}}|{{printf "%.99999999d" 1}}"#,
            "%!(NOVERB)%!(EXTRA int=1)|%!(NOVERB)%!(EXTRA int=1)",
        ),
        (r#"{{printf "%.-1d" 1}}"#, "%!-(int=1)1d"),
    ]);
}

#[test]
fn arguments_by_index() {
    check(&[
        (
            r#"{{printf "%[2]d %[1]d" 1 2}}|{{printf "%[1]d %d" 1 2}}|{{printf "%[1]d" 1 2}}"#,
            "2 1|1 2|1",
        ),
        (
            r#"{{printf "%[3]d" 1}}|{{printf "%[x]d" 1}}|{{printf "%[-1]d" 1}}|{{printf "%[0]d" 1}}|{{printf "%[]d" 1}}"#,
            "%!d(BADINDEX)|%!d(BADINDEX)|%!d(BADINDEX)|%!d(BADINDEX)|%!d(BADINDEX)",
        ),
        (r#"{{printf "%[1]*[2]d|%[2]*[1]d|%.[1]d" 5 3}}"#, "    3|  5|5"),
        (
            r#"{{printf "%*[2]d" 2 3}}|{{printf "%d %[1]d %d" 1 2}}|{{printf "%d%[5]d%d" 1 2}}"#,
            " 3|1 1 2|1%!d(BADINDEX)2",
        ),
        (
            r#"{{printf "%[1]" 1}}|{{printf "%[" 1}}|{{printf "%[1" 1}}"#,
            "%!(NOVERB)|%!(NOVERB)|%!(NOVERB)",
        ),
        (
            r#"{{printf "%[1]2d" 1}}|{{printf "%2[1]d|" 1}}|{{printf "%d %d %#[1]x %#x" 16 17}}"#,
            "%!d(BADINDEX)| 1||16 17 0x10 0x11",
        ),
    ]);
}
