//! The functions of templates: Go's, and those that Docker adds.

use serde_json::Value;

use crate::Options;
use crate::print::{Buf, TOO_LONG, print, printed, println};
use crate::printf::printf;
use crate::value::{Val, type_name};
use crate::{collections, compare, json, text};

/// What an argument must be.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Want {
    Any,
    Text,
    Int,
    /// A list of strings, or nil.
    Texts,
}

/// A function by its arguments and what it does with them.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    /// The arguments that must be there.
    pub(crate) fixed: &'static [Want],
    /// Those that may follow, if any may.
    pub(crate) rest: Option<Want>,
    pub(crate) body: Body,
    /// Whether a table's header stays as it is.
    pub(crate) keeps_header: bool,
}

/// What a function does.
#[derive(Clone, Copy)]
pub(crate) enum Body {
    /// Evaluates its arguments until one is false, or true for `or`.
    Logic {
        or: bool,
    },
    Of(Plain),
}

type Outcome<'a> = Result<Val<'a>, String>;
/// Takes arguments of the kinds that the function wants.
type Plain = for<'a> fn(&[Val<'a>], &Context<'_>) -> Outcome<'a>;

/// What functions know besides their arguments.
pub(crate) struct Context<'c> {
    pub(crate) options: &'c Options<'c>,
    /// Bytes that may still be made.
    pub(crate) left: usize,
}

impl Function {
    /// The function of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Function> {
        FUNCTIONS.iter().find(|function| function.name == name)
    }

    /// Refuses a number of arguments that the function does not take.
    pub(crate) fn check(&self, count: usize) -> Result<(), String> {
        let (name, least) = (self.name, self.fixed.len());
        if self.rest.is_none() && count != least {
            return Err(format!("wrong number of args for {name}: want {least} got {count}"));
        }
        if count < least {
            let want = format!("want at least {least}");
            return Err(format!("wrong number of args for {name}: {want} got {count}"));
        }
        Ok(())
    }

    /// What its argument at an index must be.
    pub(crate) fn want(&self, index: usize) -> Want {
        self.fixed.get(index).copied().or(self.rest).unwrap_or(Want::Any)
    }

    const fn of(name: &'static str, fixed: &'static [Want], body: Plain) -> Self {
        Self { name, fixed, rest: None, body: Body::Of(body), keeps_header: false }
    }

    /// Takes any arguments behind the fixed ones.
    const fn and_more(self) -> Self {
        Self { rest: Some(Want::Any), ..self }
    }

    const fn keeping_header(self) -> Self {
        Self { keeps_header: true, ..self }
    }

    const fn logic(name: &'static str, or: bool) -> Self {
        let body = Body::Logic { or };
        Self { name, fixed: ONE, rest: Some(Want::Any), body, keeps_header: false }
    }
}

const NONE: &[Want] = &[];
const ONE: &[Want] = &[Want::Any];
const TWO: &[Want] = &[Want::Any, Want::Any];
const TEXT: &[Want] = &[Want::Text];

static FUNCTIONS: &[Function] = &[
    Function::logic("and", false),
    Function::logic("or", true),
    Function::of("not", ONE, |args, _| Ok(Val::own(!arg(args, 0).truth()))),
    Function::of("eq", ONE, eq).and_more(),
    Function::of("ne", TWO, |args, _| equal(args).map(|equal| Val::own(!equal))),
    Function::of("lt", TWO, |args, _| less(args).map(Val::own)),
    Function::of("le", TWO, |args, _| at_most(args).map(Val::own)),
    Function::of("gt", TWO, |args, _| at_most(args).map(|at_most| Val::own(!at_most))),
    Function::of("ge", TWO, |args, _| less(args).map(|less| Val::own(!less))),
    Function::of("len", ONE, |args, _| collections::len(arg(args, 0).get()).map(Val::own)),
    Function::of("index", ONE, |args, context| {
        collections::index(&arg(args, 0), behind(args), context.options)
    })
    .and_more(),
    Function::of("slice", ONE, |args, _| collections::slice(&arg(args, 0), behind(args)))
        .and_more(),
    Function::of("print", NONE, |args, context| made(context, |buf| print(buf, args))).and_more(),
    Function::of("println", NONE, |args, context| made(context, |buf| println(buf, args)))
        .and_more(),
    Function::of("printf", TEXT, |args, context| {
        made(context, |buf| printf(buf, string(args, 0), behind(args)))
    })
    .and_more(),
    Function::of("html", NONE, |args, context| escaped(args, context, text::html)).and_more(),
    Function::of("js", NONE, |args, context| escaped(args, context, text::js)).and_more(),
    Function::of("urlquery", NONE, |args, context| escaped(args, context, text::url_query))
        .and_more(),
    Function::of("call", ONE, call).and_more(),
    Function::of("json", ONE, |args, context| {
        made(context, |buf| json::write(buf, arg(args, 0).get()))
    })
    .keeping_header(),
    Function::of("split", &[Want::Text, Want::Text], split).keeping_header(),
    Function::of("join", &[Want::Texts, Want::Text], join).keeping_header(),
    Function::of("title", TEXT, |args, _| Ok(Val::own(text::title(string(args, 0)))))
        .keeping_header(),
    Function::of("lower", TEXT, |args, _| Ok(Val::own(text::lower(string(args, 0)))))
        .keeping_header(),
    Function::of("upper", TEXT, |args, _| Ok(Val::own(text::upper(string(args, 0)))))
        .keeping_header(),
    Function::of("pad", &[Want::Text, Want::Int, Want::Int], pad),
    Function::of("truncate", &[Want::Text, Want::Int], truncate).keeping_header(),
];

/// An argument; it is there, since the arguments were counted.
fn arg<'a>(args: &[Val<'a>], index: usize) -> Val<'a> {
    args.get(index).cloned().unwrap_or(Val::Missing)
}

/// An argument that is a string.
fn string<'v>(args: &'v [Val<'_>], index: usize) -> &'v str {
    args.get(index).and_then(|arg| arg.get().as_str()).unwrap_or_default()
}

/// An argument that is an integer and counts something.
fn count(args: &[Val<'_>], index: usize) -> Result<usize, String> {
    let number = args.get(index).and_then(|arg| arg.get().as_i64()).unwrap_or(0);
    usize::try_from(number).map_err(|_| format!("negative count {number}"))
}

/// The arguments behind the first one.
fn behind<'v, 'a>(args: &'v [Val<'a>]) -> &'v [Val<'a>] {
    args.get(1..).unwrap_or_default()
}

/// A string that is written within the limit.
fn made<'a>(context: &Context<'_>, write: impl FnOnce(&mut Buf)) -> Outcome<'a> {
    let mut buf = Buf::new(context.left);
    write(&mut buf);
    buf.finish().map(Val::own)
}

fn escaped<'a>(
    args: &[Val<'_>],
    context: &Context<'_>,
    escape: impl FnOnce(&mut Buf, &str),
) -> Outcome<'a> {
    let text = printed(args, context.left)?;
    made(context, |buf| escape(buf, &text))
}

/// Whether the first argument is one of the others.
fn eq<'a>(args: &[Val<'a>], _: &Context<'_>) -> Outcome<'a> {
    let others = behind(args);
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        if compare::equal(arg(args, 0).get(), other.get())? {
            return Ok(Val::own(true));
        }
    }
    Ok(Val::own(false))
}

fn equal(args: &[Val<'_>]) -> Result<bool, String> {
    compare::equal(arg(args, 0).get(), arg(args, 1).get())
}

fn less(args: &[Val<'_>]) -> Result<bool, String> {
    compare::less(arg(args, 0).get(), arg(args, 1).get())
}

fn at_most(args: &[Val<'_>]) -> Result<bool, String> {
    Ok(less(args)? || equal(args)?)
}

fn call<'a>(args: &[Val<'a>], _: &Context<'_>) -> Outcome<'a> {
    let first = arg(args, 0);
    if first.is_nil() {
        return Err("call of nil".to_owned());
    }
    Err(format!("non-function of type {}", type_name(first.get())))
}

fn split<'a>(args: &[Val<'a>], context: &Context<'_>) -> Outcome<'a> {
    let (text, separator) = (string(args, 0), string(args, 1));
    let pieces = match separator {
        "" => text.chars().count(),
        separator => text.matches(separator).count() + 1,
    };
    if text.len().saturating_add(pieces * size_of::<Value>()) > context.left {
        return Err(TOO_LONG.to_owned());
    }
    let pieces: Vec<Value> = match separator {
        "" => text.chars().map(|c| Value::from(String::from(c))).collect(),
        separator => text.split(separator).map(Value::from).collect(),
    };
    Ok(Val::own(pieces))
}

fn join<'a>(args: &[Val<'a>], context: &Context<'_>) -> Outcome<'a> {
    let list = arg(args, 0);
    let separator = string(args, 1);
    made(context, |buf| {
        for (index, piece) in list.get().as_array().into_iter().flatten().enumerate() {
            if index > 0 {
                buf.push_str(separator);
            }
            buf.push_str(piece.as_str().unwrap_or_default());
        }
    })
}

/// A string with spaces before and behind it, unless it is empty.
fn pad<'a>(args: &[Val<'a>], context: &Context<'_>) -> Outcome<'a> {
    let text = string(args, 0);
    if text.is_empty() {
        return Ok(arg(args, 0));
    }
    let (before, behind) = (count(args, 1)?, count(args, 2)?);
    made(context, |buf| {
        buf.fill(' ', before);
        buf.push_str(text);
        buf.fill(' ', behind);
    })
}

/// The first bytes of a string.
fn truncate<'a>(args: &[Val<'a>], _: &Context<'_>) -> Outcome<'a> {
    let length = count(args, 1)?;
    match string(args, 0).as_bytes().get(..length) {
        Some(bytes) => Ok(Val::own(String::from_utf8_lossy(bytes).into_owned())),
        None => Ok(arg(args, 0)),
    }
}
