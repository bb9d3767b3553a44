//! The parser: what Go accepts, and no more.

use std::mem;

use crate::ast::{Branch, Call, Node, Pipe, Range, Span};
use crate::lex::{Kind, Token, Tokens, lex};
use crate::literal;
use crate::{Error, Templates};

/// Deepest nesting of actions and parentheses.
const DEEPEST: usize = 64;

/// Parses a template and what it defines.
pub(crate) fn parse(source: &str) -> Result<Templates, Error> {
    let tokens = lex(source);
    let variables = vec!["$".to_owned()];
    let templates = Templates::new();
    Parser { source, tokens, next: 0, variables, loops: 0, depth: 0, templates }.run()
}

pub(crate) struct Parser<'t> {
    pub(crate) source: &'t str,
    tokens: Tokens<'t>,
    /// The token that comes next.
    pub(crate) next: usize,
    /// Names of the variables in scope.
    pub(crate) variables: Vec<String>,
    /// Ranges around this place, which `{{break}}` needs.
    loops: usize,
    depth: usize,
    templates: Templates,
}

/// What a list consists of, or what ends it.
enum Item {
    Node(Node),
    Else,
    End,
}

#[derive(PartialEq)]
enum Stop {
    Else,
    End,
}

impl<'t> Parser<'t> {
    fn run(mut self) -> Result<Templates, Error> {
        let mut root = Vec::new();
        while self.peek().kind != Kind::Eof {
            let mark = self.next;
            if self.take().kind == Kind::LeftDelim && self.take_word().kind == Kind::Define {
                self.definition()?;
                continue;
            }
            self.next = mark;
            match self.item()? {
                Item::Node(node) => root.push(node),
                Item::Else => return Err(self.fail("unexpected {{else}}")),
                Item::End => return Err(self.fail("unexpected {{end}}")),
            }
        }
        self.add(String::new(), root)?;
        Ok(self.templates)
    }

    /// The next token, which stays.
    pub(crate) fn peek(&self) -> Token<'t> {
        // `take` never goes beyond the last one.
        self.tokens.list[self.next]
    }

    /// Takes the next token; the last one stays.
    pub(crate) fn take(&mut self) -> Token<'t> {
        let token = self.peek();
        if self.next + 1 < self.tokens.list.len() {
            self.next += 1;
        }
        token
    }

    /// The next token that is no space. Spaces before it are taken.
    pub(crate) fn peek_word(&mut self) -> Token<'t> {
        while self.peek().kind == Kind::Space {
            self.take();
        }
        self.peek()
    }

    pub(crate) fn take_word(&mut self) -> Token<'t> {
        self.peek_word();
        self.take()
    }

    /// Where the token that was taken last ends.
    pub(crate) fn taken_to(&self) -> usize {
        self.next.checked_sub(1).map_or(0, |last| self.tokens.list[last].end())
    }

    pub(crate) fn expect(&mut self, kind: Kind, context: &str) -> Result<Token<'t>, Error> {
        let token = self.take_word();
        if token.kind == kind { Ok(token) } else { Err(self.unexpected(token, context)) }
    }

    /// The error for a token that can't stand where it stands.
    pub(crate) fn unexpected(&self, token: Token<'_>, context: &str) -> Error {
        if token.kind == Kind::Error {
            return self.fail_at(token, self.tokens.error.clone());
        }
        self.fail_at(token, format!("unexpected {} in {context}", token.describe()))
    }

    pub(crate) fn fail_at(&self, token: Token<'_>, message: impl Into<String>) -> Error {
        Error::parsing(self.source, Span::new(token.pos, token.end()), message.into())
    }

    /// An error about the token that was taken last.
    pub(crate) fn fail(&self, message: impl Into<String>) -> Error {
        self.fail_at(self.tokens.list[self.next.saturating_sub(1)], message)
    }

    /// Goes one level down; [`Parser::leave`] goes up again.
    pub(crate) fn enter(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.fail(format!("nested more than {DEEPEST} levels deep")));
        }
        Ok(())
    }

    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    fn item(&mut self) -> Result<Item, Error> {
        let token = self.take_word();
        match token.kind {
            Kind::Text => Ok(Item::Node(Node::Text(token.text.to_owned()))),
            Kind::LeftDelim => self.action(token),
            _ => Err(self.unexpected(token, "input")),
        }
    }

    /// Takes texts and actions up to `{{else}}` or `{{end}}`.
    fn list(&mut self) -> Result<(Vec<Node>, Stop), Error> {
        let mut nodes = Vec::new();
        loop {
            if self.peek().kind == Kind::Eof {
                return Err(self.fail_at(self.peek(), "unexpected EOF"));
            }
            match self.item()? {
                Item::Node(node) => nodes.push(node),
                Item::Else => return Ok((nodes, Stop::Else)),
                Item::End => return Ok((nodes, Stop::End)),
            }
        }
    }

    fn action(&mut self, left: Token<'t>) -> Result<Item, Error> {
        self.peek_word();
        let mark = self.next;
        let token = self.take();
        let node = match token.kind {
            Kind::If => self.branch("if", Kind::If)?,
            Kind::With => self.branch("with", Kind::With)?,
            Kind::Range => self.range()?,
            Kind::Template => self.call(left)?,
            Kind::Block => self.block(left)?,
            Kind::Break => self.jump(token, Node::Break)?,
            Kind::Continue => self.jump(token, Node::Continue)?,
            Kind::Else => {
                // What an `{{else if}}` or `{{else with}}` goes on with is
                // left for the action that it belongs to.
                if !matches!(self.peek_word().kind, Kind::If | Kind::With) {
                    self.expect(Kind::RightDelim, "else")?;
                }
                return Ok(Item::Else);
            }
            Kind::End => {
                self.expect(Kind::RightDelim, "end")?;
                return Ok(Item::End);
            }
            _ => {
                self.next = mark;
                Node::Action(self.pipeline("command", Kind::RightDelim)?)
            }
        };
        Ok(Item::Node(node))
    }

    /// `{{if}}` and `{{with}}`
    fn branch(&mut self, context: &str, keyword: Kind) -> Result<Node, Error> {
        self.enter()?;
        let scope = self.variables.len();
        let mut arms = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let pipe = self.pipeline(context, Kind::RightDelim)?;
            let (body, stop) = self.list()?;
            arms.push((pipe, body));
            if stop == Stop::End {
                break;
            }
            if self.peek().kind == keyword {
                self.take();
                continue;
            }
            otherwise = self.last_list()?;
            break;
        }
        self.variables.truncate(scope);
        self.leave();
        Ok(Node::Branch(Branch { with: keyword == Kind::With, arms, otherwise }))
    }

    fn range(&mut self) -> Result<Node, Error> {
        self.enter()?;
        let scope = self.variables.len();
        let pipe = self.pipeline("range", Kind::RightDelim)?;
        self.loops += 1;
        let (body, stop) = self.list()?;
        self.loops -= 1;
        let otherwise = if stop == Stop::Else { self.last_list()? } else { Vec::new() };
        self.variables.truncate(scope);
        self.leave();
        Ok(Node::Range(Range { pipe, body, otherwise }))
    }

    /// The list behind `{{else}}`.
    fn last_list(&mut self) -> Result<Vec<Node>, Error> {
        match self.list()? {
            (nodes, Stop::End) => Ok(nodes),
            (_, Stop::Else) => Err(self.fail("expected end; found {{else}}")),
        }
    }

    fn jump(&mut self, keyword: Token<'t>, node: Node) -> Result<Node, Error> {
        let action = format!("{{{{{}}}}}", keyword.text);
        self.expect(Kind::RightDelim, &action)?;
        if self.loops == 0 {
            return Err(self.fail_at(keyword, format!("{action} outside {{{{range}}}}")));
        }
        Ok(node)
    }

    fn call(&mut self, left: Token<'t>) -> Result<Node, Error> {
        const CONTEXT: &str = "template clause";
        let (name, pos) = self.template_name(CONTEXT)?;
        let pipe = if self.peek_word().kind == Kind::RightDelim {
            self.take();
            None
        } else {
            Some(self.pipeline(CONTEXT, Kind::RightDelim)?)
        };
        Ok(self.finish_call(left, pos, name, pipe))
    }

    /// A definition and its use.
    fn block(&mut self, left: Token<'t>) -> Result<Node, Error> {
        const CONTEXT: &str = "block clause";
        let (name, pos) = self.template_name(CONTEXT)?;
        let pipe = self.pipeline(CONTEXT, Kind::RightDelim)?;
        let node = self.finish_call(left, pos, name.clone(), Some(pipe));
        self.body(name, CONTEXT)?;
        Ok(node)
    }

    /// The call whose action was taken just now.
    fn finish_call(&self, left: Token<'t>, pos: usize, name: String, pipe: Option<Pipe>) -> Node {
        Node::Call(Call { at: Span { pos, start: left.pos, end: self.taken_to() }, name, pipe })
    }

    fn definition(&mut self) -> Result<(), Error> {
        const CONTEXT: &str = "define clause";
        let (name, _) = self.template_name(CONTEXT)?;
        self.expect(Kind::RightDelim, CONTEXT)?;
        self.body(name, CONTEXT)
    }

    /// The name of a template, and where it stands.
    fn template_name(&mut self, context: &str) -> Result<(String, usize), Error> {
        let token = self.take_word();
        if !matches!(token.kind, Kind::Quoted | Kind::Raw) {
            return Err(self.unexpected(token, context));
        }
        let name = literal::unquote(token.text).map_err(|e| self.fail_at(token, e))?;
        Ok((name, token.pos))
    }

    /// The body of a definition, which sees no variables from around it.
    fn body(&mut self, name: String, context: &str) -> Result<(), Error> {
        self.enter()?;
        let variables = mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let loops = mem::take(&mut self.loops);
        let (nodes, stop) = self.list()?;
        if stop == Stop::Else {
            return Err(self.fail(format!("unexpected {{{{else}}}} in {context}")));
        }
        self.variables = variables;
        self.loops = loops;
        self.leave();
        self.add(name, nodes)
    }

    /// Keeps a definition. One of several of a name may be more than spaces.
    fn add(&mut self, name: String, body: Vec<Node>) -> Result<(), Error> {
        if self.templates.get(&name).is_none_or(|present| is_blank(present)) {
            self.templates.insert(name, body);
        } else if !is_blank(&body) {
            return Err(self.fail(format!("multiple definition of template {name:?}")));
        }
        Ok(())
    }
}

fn is_blank(nodes: &[Node]) -> bool {
    nodes.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()))
}
