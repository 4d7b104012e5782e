//! Builds the record of a name for the tables.

use std::collections::BTreeSet;

use bytemuck::Zeroable as _;
use dns_common::{
    checksum,
    names::{MAX_NAME, MIN_NAME},
    records::{
        ANSWERS, GRANULE, MAX_ANSWER_LENGTH, MAX_RECORD_LENGTH, MIN_ANSWER_LENGTH, RecordHead,
        StoredAnswer,
    },
    settings::MAX_SUFFIXES,
};
use zerohop_zone as zone;
use zerohop_zone::{
    ChangedAnswers, ComputedNames, Name, NameEntry, OtherTypes, Rdata, Rtype, Sections, Window,
    ZoneData,
};

/// The part of an answer that decides whether a record can hold it.
pub(super) const WINDOW: Window = Window {
    bytes: MAX_ANSWER_LENGTH,
    ..Window::WHOLE
};

/// Builds the record of an existing name in the layout of [`dns_common::records`], padded to whole
/// granules. Its fields `slot` and `hash` are set when it is stored.
///
/// `None` for a name of a length that the kernel doesn't look up. Queries for such names pass.
#[must_use]
pub fn build_record(data: &dyn ZoneData, name: &Name, entry: &NameEntry) -> Option<Vec<u8>> {
    let wire = name.wire();
    if wire.len() < MIN_NAME || wire.len() > MAX_NAME {
        return None;
    }
    let zone = data.zone_of(name);
    let mut head = RecordHead {
        name_length: wire.len() as u16,
        flags: 0,
        slot: 0,
        zone: zone_number(zone),
        too_large: 0,
        hash: 0,
        answers: [StoredAnswer::zeroed(); ANSWERS],
    };
    // Everything after the head.
    let mut body = wire.to_vec();
    body.resize(wire.len().next_multiple_of(8), 0);
    let computed = render_computed_names(data, name, entry);
    if computed.is_some() {
        body.resize(body.len() + size_of_val(&head.answers), 0);
    }

    let (rendered, with_data) = render_own_answers(data, name, entry);
    // At an alias, `RecordHead::ALIAS` makes all types pass except CNAME, A and AAAA. A and AAAA
    // have the answers of the target.
    let others_pass = match entry.other_types() {
        OtherTypes::Passed => !entry.is_alias(),
        OtherTypes::Unknown => true,
        // A record has no room for the types that pass one by one.
        OtherTypes::Denied | OtherTypes::PassedAtAlias => {
            data.passes_queries(name) || passes_types(data, zone)
        }
    };
    if rendered.len() > ANSWERS || others_pass {
        head.flags |= RecordHead::OTHER_TYPES_PASS;
    }
    if entry.is_alias() {
        head.flags |= RecordHead::ALIAS;
    }
    head.answers = place_answers(rendered, &mut body);
    let placed = head.answers.iter().map(|answer| answer.length > 0);
    let placed = placed.chain(std::iter::repeat(false));
    // Types with data that the record has no answer for.
    let missing = with_data
        .iter()
        .zip(placed)
        .filter(|(with_data, placed)| **with_data && !placed);
    head.too_large = missing.count() as u16;
    match computed {
        Some(computed) => {
            head.flags |= computed.flags;
            let answers = place_answers(computed.answers, &mut body);
            let at = RecordHead::computed_answers_at(wire.len()) - size_of::<RecordHead>();
            let bytes = bytemuck::bytes_of(&answers);
            body[at..at + bytes.len()].copy_from_slice(bytes);
        }
        None if entry.has_computed_names() => head.flags |= RecordHead::BELOW_UNKNOWN,
        None => {}
    }

    let length = size_of::<RecordHead>() + body.len();
    let mut record = bytemuck::bytes_of(&head).to_vec();
    record.append(&mut body);
    record.resize(length.next_multiple_of(GRANULE), 0);
    Some(record)
}

/// A rendered answer in all its orders.
struct RenderedAnswer {
    /// The answer in its first order.
    sections: Sections,
    /// The bytes to store: `rotations` orders of the answer, which start `stride` bytes apart.
    stored: Vec<u8>,
    rotations: usize,
    stride: usize,
}

/// Rendered answers by type. `None` if queries for the type must pass.
type RenderedAnswers = Vec<(Rtype, Option<RenderedAnswer>)>;

/// The answers of the computed names one label below a name.
struct ComputedRecords {
    flags: u8,
    answers: RenderedAnswers,
}

/// Renders the answers of a name: one for each type that the name has, and those for A and AAAA at
/// an alias. NODATA of a zone is not stored, because the kernel answers it for types without a
/// stored answer.
/// Also returns, for each answer, whether the user plane answers queries for the type with data.
fn render_own_answers(
    data: &dyn ZoneData,
    name: &Name,
    entry: &NameEntry,
) -> (RenderedAnswers, Vec<bool>) {
    let mut types: Vec<Rtype> = entry.types().collect();
    // The addresses of an alias are those of its target. Of a host of which only the addresses are
    // known, a missing family is answered too, with a SOA record of the name itself.
    if entry.is_alias() || entry.other_types() == OtherTypes::Unknown {
        types.extend([Rtype::A, Rtype::AAAA]);
    }
    types.extend(types_changed_without_data(data, name));
    let mut seen = BTreeSet::new();
    types.retain(|rtype| seen.insert(*rtype));
    types
        .into_iter()
        .filter_map(|rtype| match data.answer_within(name, rtype, WINDOW) {
            zone::Answer::NoData { .. } => None,
            answer => {
                let has_data = matches!(
                    answer,
                    zone::Answer::Data { .. } | zone::Answer::NoDataAtName { .. }
                );
                Some(((rtype, render_answer(data, name, &answer)), has_data))
            }
        })
        .unzip()
}

/// Renders the answers that all computed names one label below share. `None` when there are no such
/// names, or when the record can't describe them. In the second case queries for them pass.
fn render_computed_names(
    data: &dyn ZoneData,
    name: &Name,
    entry: &NameEntry,
) -> Option<ComputedRecords> {
    // The label "0" stands for any label, because the rendered answers don't depend on it.
    let child = name.child(b"0").ok()?;
    let render_shared = |owner: &Name, rtype: Rtype| {
        let answer = match data.answer_within(owner, rtype, WINDOW) {
            zone::Answer::Data { answer, additional } if additional.is_empty() => answer,
            // The compression of additional names depends on the child's name.
            _ => return None,
        };
        let answer = answer.into_iter().map(|record| zone::Record {
            owner: child.clone(),
            ..record
        });
        let answer = zone::Answer::Data {
            answer: answer.collect(),
            additional: Vec::new(),
        };
        render_answer(data, &child, &answer)
    };
    let changed = types_changed_without_data(data, &child);
    match entry.computed_names() {
        ComputedNames::Nothing | ComputedNames::EmptyThenAddresses(_) | ComputedNames::Unknown => {
            None
        }
        ComputedNames::Empty => Some(ComputedRecords {
            flags: RecordHead::COMPUTED_NAMES,
            answers: with_passed_types(Vec::new(), changed),
        }),
        ComputedNames::Like(other) => {
            let other_entry = data.entry_within(other, WINDOW)?;
            let types = other_entry.types();
            let answers = types.map(|rtype| (rtype, render_shared(other, rtype)));
            let answers = with_passed_types(answers.collect(), changed);
            (answers.len() <= ANSWERS).then_some(ComputedRecords {
                flags: RecordHead::COMPUTED_NAMES,
                answers,
            })
        }
        ComputedNames::Addresses(ttl) => {
            // The kernel program replaces the zeros with the address in the label.
            let address = zone::Answer::Data {
                answer: vec![zone::Record {
                    owner: child.clone(),
                    ttl: *ttl,
                    data: Rdata::A([0; 4].into()),
                }],
                additional: Vec::new(),
            };
            let answers = vec![
                (Rtype::A, render_answer(data, &child, &address)),
                // The data contains the child's name, so the names can't share an answer.
                (Rtype::SRV, None),
            ];
            let answers = with_passed_types(answers, changed);
            (answers.len() <= ANSWERS).then_some(ComputedRecords {
                flags: RecordHead::COMPUTED_NAMES | RecordHead::COMPUTED_NAMES_ARE_ADDRESSES,
                answers,
            })
        }
    }
}

/// The types whose queries pass at an existing name if it has no data of the type.
fn types_changed_without_data(data: &dyn ZoneData, name: &Name) -> Vec<Rtype> {
    let changed = data.changed_answers_of(name).into_iter();
    let types = changed.filter_map(|changed| match changed {
        ChangedAnswers::WithoutType(rtype) => Some(rtype),
        ChangedAnswers::SeveralAddresses => None,
    });
    types.collect()
}

/// Adds types whose queries pass, unless they have an answer.
fn with_passed_types(mut answers: RenderedAnswers, passed: Vec<Rtype>) -> RenderedAnswers {
    for rtype in passed {
        if answers.iter().all(|(answered, _)| *answered != rtype) {
            answers.push((rtype, None));
        }
    }
    answers
}

/// Appends answers to the body of a record, and returns their descriptions. Answers that are
/// `None`, or for which there is no room, get length 0: their queries pass. Only the first
/// [`ANSWERS`] are placed.
fn place_answers(answers: RenderedAnswers, body: &mut Vec<u8>) -> [StoredAnswer; ANSWERS] {
    let mut placed = [StoredAnswer::zeroed(); ANSWERS];
    for (answer, (rtype, rendered)) in placed.iter_mut().zip(answers) {
        answer.rtype = rtype.to_int().to_be();
        let offset = size_of::<RecordHead>() + body.len();
        let Some(rendered) = rendered.filter(|it| offset + it.stored.len() <= MAX_RECORD_LENGTH)
        else {
            continue;
        };
        body.extend_from_slice(&rendered.stored);
        body.resize(body.len().next_multiple_of(8), 0);
        let RenderedAnswer {
            sections,
            rotations,
            stride,
            ..
        } = rendered;
        *answer = StoredAnswer {
            rtype: answer.rtype,
            offset: offset as u16,
            length: sections.bytes.len() as u16,
            rotations: rotations as u16,
            stride: stride as u16,
            answers: sections.answers.to_be(),
            additionals: sections.additionals.to_be(),
            sum: checksum::fold(checksum::sum(&sections.bytes)),
        };
    }
    placed
}

/// Renders an answer to a question for `name`. `None` if the answer is not one that records hold,
/// or has a length that they can't hold.
fn render_answer(
    data: &dyn ZoneData,
    name: &Name,
    answer: &zone::Answer,
) -> Option<RenderedAnswer> {
    let (records, additional): (&[_], &[_]) = match answer {
        zone::Answer::Data { answer, additional } => (answer, additional),
        zone::Answer::NoDataAtName { .. } => (&[], &[]),
        _ => return None,
    };
    let render_rotation = |rotation| zone::render(name, answer, data.zones(), rotation);
    let sections = render_rotation(0);
    let length = sections.bytes.len();
    if !(MIN_ANSWER_LENGTH..=MAX_ANSWER_LENGTH).contains(&length) {
        return None;
    }
    let rotations = zone::count_rotations(records);
    let (stored, stride) = if rotations == 1 {
        (sections.bytes.clone(), 0)
    } else if rotations == records.len() && additional.is_empty() {
        // All records are addresses of the same owner and type, so they have the same length, and
        // every order is a slice of the records written twice.
        let stride = length / rotations;
        let more = &sections.bytes[..length - stride];
        ([&sections.bytes, more].concat(), stride)
    } else {
        let stride = length.next_multiple_of(8);
        let mut stored = Vec::with_capacity(rotations * stride);
        for rotation in 0..rotations {
            stored.extend(render_rotation(rotation).bytes);
            stored.resize((rotation + 1) * stride, 0);
        }
        (stored, stride)
    };
    Some(RenderedAnswer {
        sections,
        stored,
        rotations,
        stride,
    })
}

/// Whether queries for some types pass in the zone with this index, besides ANY, which the kernel
/// always passes.
fn passes_types(data: &dyn ZoneData, zone: Option<usize>) -> bool {
    zone.is_some_and(|zone| {
        let mut types = data.zones()[zone].passed_types.iter();
        types.any(|rtype| *rtype != Rtype::ANY)
    })
}

/// The number of a name's zone in its record: its index in the settings. [`RecordHead::NO_ZONE`] if
/// there is none, or if the settings have no room for it.
fn zone_number(zone: Option<usize>) -> u16 {
    match zone {
        Some(number) if number < MAX_SUFFIXES => number as u16,
        _ => RecordHead::NO_ZONE,
    }
}
