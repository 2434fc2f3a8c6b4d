//! One line of a feature view, cut into its parts: `AGG(args) [by category [max n]] [where condition] [over windows [hop length]]`.
//!
//! Cutting is done on SQL tokens at the top level, so that a quoted word or one inside parentheses never ends a part.

use std::ops::Range;

use kilter_core::{Problem, Span};
use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::expr::byte_at;

/// A piece of the line and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece<'a> {
    pub text: &'a str,
    pub start: usize,
}

impl<'a> Piece<'a> {
    fn new(line: &'a str, range: Range<usize>) -> Piece<'a> {
        let text = &line[range.clone()];
        let trimmed = text.trim_start();
        Piece { text: trimmed.trim_end(), start: range.start + (text.len() - trimmed.len()) }
    }

    pub(super) fn range(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Line<'a> {
    pub aggregate: Piece<'a>,
    pub args: Vec<Piece<'a>>,
    pub by: Option<Piece<'a>>,
    pub filter: Option<Piece<'a>>,
    /// As written; empty: lifetime.
    pub windows: Vec<Piece<'a>>,
    pub hop: Option<(Piece<'a>, Span)>,
}

const SHAPE: &str = "a feature reads: sum(amount) where kind = 'card' over 7d, 30d";

pub(super) fn parse(text: &str) -> Result<Line<'_>, Problem> {
    if text.len() > crate::expr::MAX_TEXT_BYTES {
        return Err(Problem::new("expression_too_long", format!("feature of {} bytes", text.len()))
            .hint(format!("the limit is {} bytes", crate::expr::MAX_TEXT_BYTES)));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().map_err(|e| {
        let problem = Problem::new("syntax", e.message);
        match byte_at(text, e.location.line, e.location.column) {
            Some(at) => problem.at(at..text.len()),
            None => problem,
        }
    })?;
    let tokens: Vec<(Token, Range<usize>)> = tokens
        .into_iter()
        .filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF))
        .filter_map(|TokenWithSpan { token, span }| {
            let range = byte_at(text, span.start.line, span.start.column)?..byte_at(text, span.end.line, span.end.column)?;
            Some((token, range))
        })
        .collect();

    // The head: NAME ( ... )
    let (name, open) = match tokens.as_slice() {
        [(Token::Word(w), name), (Token::LParen, open), ..] if w.quote_style.is_none() => (name.clone(), open.clone()),
        [] => return Err(Problem::new("syntax", "a feature is expected here").hint(SHAPE)),
        [(_, first), ..] => {
            return Err(Problem::new("syntax", "a feature starts with an aggregate and its parentheses")
                .hint(format!("{SHAPE}; aggregates: {}", kilter_core::list(crate::aggregators::names())))
                .at(first.clone()));
        }
    };
    let mut depth = 0usize;
    let mut commas = vec![open.end];
    let mut close = None;
    for (i, (token, range)) in tokens.iter().enumerate().skip(1) {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => {
                depth -= 1;
                if depth == 0 {
                    close = Some((i, range.clone()));
                    break;
                }
            }
            Token::Comma if depth == 1 => commas.push(range.end),
            _ => {}
        }
    }
    let Some((close_at, close)) = close else {
        return Err(Problem::new("syntax", "this parenthesis is never closed").at(open));
    };
    let mut args: Vec<Piece<'_>> = Vec::new();
    for (i, start) in commas.iter().enumerate() {
        let end = commas.get(i + 1).map_or(close.start, |next| next - 1);
        args.push(Piece::new(text, *start..end));
    }
    if args.len() == 1 && args[0].text.is_empty() {
        args.clear();
    }

    // The tail: by, where, over, hop, each at most once and in this order.
    let mut marks: Vec<(usize, &'static str, Range<usize>)> = Vec::new();
    let mut depth = 0usize;
    for (token, range) in &tokens[close_at + 1..] {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Word(w) if depth == 0 && w.quote_style.is_none() => {
                let rank = match w.value.to_ascii_lowercase().as_str() {
                    "by" => 0,
                    "where" => 1,
                    "over" => 2,
                    "hop" | "every" if marks.last().is_some_and(|m| m.0 == 2) => 3,
                    _ => continue,
                };
                let word = ["by", "where", "over", "hop"][rank];
                if marks.last().is_some_and(|m| m.0 >= rank) {
                    let problem = Problem::new("syntax", format!("`{word}` comes twice or too late")).hint(SHAPE);
                    return Err(problem.at(range.clone()));
                }
                marks.push((rank, word, range.clone()));
            }
            _ => {}
        }
    }
    let head_end = marks.first().map_or(text.len(), |m| m.2.start);
    let stray = Piece::new(text, close.end..head_end);
    if !stray.text.is_empty() {
        let problem = Problem::new("syntax", format!("`{}` after the aggregate", stray.text)).at(stray.range());
        return Err(match tokens.get(close_at + 1) {
            Some((Token::Word(_), _)) => problem.hint(SHAPE),
            _ => problem.hint("a feature is one aggregate; combine several in the inputs of a model"),
        });
    }
    let part = |rank: usize| -> Option<Piece<'_>> {
        let i = marks.iter().position(|m| m.0 == rank)?;
        let end = marks.get(i + 1).map_or(text.len(), |next| next.2.start);
        Some(Piece::new(text, marks[i].2.end..end))
    };
    let windows = match part(2) {
        None => Vec::new(),
        Some(list) => {
            let mut start = list.start;
            let mut windows = Vec::new();
            for item in list.text.split(',') {
                windows.push(Piece::new(text, start..start + item.len()));
                start += item.len() + 1;
            }
            windows
        }
    };
    let hop = match part(3) {
        None => None,
        Some(piece) => match Span::parse(piece.text) {
            Some(span) => Some((piece, span)),
            None => return Err(not_a_span(&piece)),
        },
    };
    Ok(Line { aggregate: Piece::new(text, name), args, by: part(0), filter: part(1), windows, hop })
}

pub(super) fn not_a_span(piece: &Piece<'_>) -> Problem {
    Problem::new("bad_span", format!("`{}` is not a length of time", piece.text))
        .hint("write a number and a unit (s, m, h, d, w), as in 90s, 1h, 7d, or `lifetime`")
        .at(piece.range())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_inside_quotes_and_parentheses_end_nothing() {
        let text = "sum(if(a = 'x over y', b, 0)) where kind in ('where', 'over') over 7d , 30d hop 1h";
        let line = parse(text).unwrap();
        assert_eq!(line.aggregate.text, "sum");
        assert_eq!(line.args[0].text, "if(a = 'x over y', b, 0)");
        assert_eq!(line.filter.unwrap().text, "kind in ('where', 'over')");
        assert_eq!(line.windows.iter().map(|w| w.text).collect::<Vec<_>>(), ["7d", "30d"]);
        assert_eq!(line.hop.unwrap().1, Span::HOUR);
        assert_eq!(&text[line.windows[1].range()], "30d");
    }
}
