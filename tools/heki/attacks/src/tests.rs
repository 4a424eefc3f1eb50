// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The table that is there, and tables and results that are not as they should be.

use std::collections::BTreeMap;

use crate::print;
use crate::table::{
    names_of,
    sections_of,
    Leg,
    Report,
    Table,
    Verdict, //
};

const TABLE: &str = include_str!("../../../testing/selftests/heki/attacks.toml");
const ATTACKS: &str = include_str!("../../../../virt/heki/attack/attacks.h");
const DESIGN: &str = include_str!("../../../../Documentation/virt/kvm/x86/heki.rst");

/// A table of 35 rows with the same tests.
fn table(row: &str) -> String {
    let mut text = String::from("controls = [\"neighbour\"]\n");
    for number in 1..=35 {
        text += &format!("[[row]]\nnumber = {number}\nattack = \"x\"\n{row}\n");
    }
    text
}

/// What of a table of such rows follows from the results on two legs.
fn report(row: &str, results: &str) -> Result<Report, String> {
    let legs = ["vmx", "svm"].map(|leg| Leg::parse(results, leg));
    Report::new(&Table::parse(&table(row)).unwrap(), &legs, BTreeMap::new())
}

/// On the first.
fn verdict(row: &str, results: &str) -> Verdict {
    report(row, results).unwrap().rows[0].verdicts[0]
}

/// The line of the first row that says where it was run and where not.
fn remark(row: &str, results: &str) -> String {
    let rst = print::rst(&report(row, results).unwrap());
    let rows = rst.split("   * - 1\n").nth(1).unwrap();
    rows.lines()
        .nth(3)
        .unwrap()
        .trim_start_matches([' ', '-'])
        .to_owned()
}

#[test]
fn the_table_has_all_attacks() {
    let names = names_of(ATTACKS);
    assert!(names.contains("text-direct-map") && names.contains("neighbour"));
    Table::parse(TABLE).unwrap().check_names(&names).unwrap();
}

#[test]
fn an_attack_that_is_missing_is_found() {
    let table = Table::parse(&table("tests = [\"attack/a\"]")).unwrap();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(table.check_names(&names(&["a", "neighbour"])), Ok(()));
    let all = table.check_names(&names(&["a", "b", "neighbour"]));
    assert_eq!(all, Err("attack b is in no row".to_owned()));
    let few = table.check_names(&names(&["neighbour"]));
    assert_eq!(few, Err("there is no attack a".to_owned()));
    // A control may be run by others, an exception must exist.
    assert_eq!(table.check_names(&names(&["a"])), Ok(()));
    let text = TABLE.replace("[\"xcr0\"]", "[\"xcr1\"]");
    let other = Table::parse(&text).unwrap().check_names(&names_of(ATTACKS));
    assert_eq!(other, Err("there is no attack xcr1".to_owned()));
    assert!(table.check_names(&names(&[])).is_err());
}

#[test]
fn the_table_refers_to_sections() {
    let table = Table::parse(TABLE).unwrap();
    assert_eq!(table.check_sections(&sections_of(DESIGN)), Ok(()));
    let other = DESIGN.replace("\nMemslots\n", "\nMemory slots\n");
    let none = table.check_sections(&sections_of(&other));
    assert_eq!(none, Err("there is no section Memslots".to_owned()));
    let text = "Title\n=====\n\nA list:\n\n- one\n\nPart\n----\n\nShort rule\n---\n";
    let sections: Vec<_> = sections_of(text).into_iter().collect();
    assert_eq!(sections, ["Part", "Title"]);
}

#[test]
fn tables_with_flaws_are_refused() {
    let good = table("tests = [\"kvm/a\"]");
    assert!(Table::parse(&good).is_ok());
    for bad in [
        table(""),
        table("tests = []"),
        table("tests = [\"a\"]"),
        table("tests = [\"kvm/a\"]\nout_of_scope = \"y\""),
        table("not_enforced = \"y\"\nout_of_scope = \"y\""),
        table("tests = [\"kvm/a\"]\nlimit = \"y\""),
        table("tests = [\"kvm/a\"]\nlimits = \"\"\nsee = [\"S\"]"),
        table("not_enforced = \" \"\nsee = [\"S\"]"),
        table("not_enforced = \"y\""),
        table("tests = [\"kvm/a\"]\nlimits = \"y\""),
        TABLE.replace("outcome = \"absent\"", "outcome = \"gone\""),
        TABLE.replace("why = \"no XSAVE in QEMU's nested guest\"", "why = \"\""),
        good.replace("number = 7\n", "number = 8\n"),
        good.rsplit_once("[[row]]").unwrap().0.to_owned(),
    ] {
        assert!(Table::parse(&bad).is_err(), "{bad}");
    }
}

#[test]
fn verdicts_follow_from_the_results() {
    let tests = "tests = [\"kvm/a\", \"guest/b*\"]";
    let with = |a: &str, b: &str| {
        verdict(
            tests,
            &format!("vmx kvm a {a}\nvmx guest b1 pass\nvmx guest b2 {b}\n"),
        )
    };
    assert_eq!(with("pass", "pass"), Verdict::Denied);
    assert_eq!(with("pass", "skip not enforced"), Verdict::Partly);
    assert_eq!(with("fail", "pass"), Verdict::Failed);
    assert_eq!(with("pass", "fail"), Verdict::Failed);
    assert_eq!(
        verdict(
            &format!("{tests}\nlimits = \"y\"\nsee = [\"S\"]"),
            "vmx kvm a skip z\nvmx guest b1 skip z\n"
        ),
        Verdict::NotEnforced
    );
    // A test that did not run, and a leg that did not.
    assert_eq!(
        verdict(
            tests,
            "vmx kvm a pass
svm guest b1 pass
"
        ),
        Verdict::Failed
    );
    assert_eq!(
        verdict(
            tests,
            "svm kvm a pass
svm guest b1 pass
"
        ),
        Verdict::Failed
    );
    assert_eq!(
        verdict("not_enforced = \"y\"\nsee = [\"S\"]", ""),
        Verdict::NotEnforced
    );
    let both = format!("{tests}\nnot_enforced = \"y\"\nsee = [\"S\"]");
    let passed = "vmx kvm a pass\nvmx guest b1 pass\n";
    assert_eq!(verdict(&both, passed), Verdict::Partly);
    assert_eq!(verdict(&both, ""), Verdict::Failed);
    assert_eq!(verdict("out_of_scope = \"y\"", ""), Verdict::OutOfScope);
    // One of two results of the same name.
    assert_eq!(
        verdict("tests = [\"kvm/a\"]", "vmx kvm a pass\nvmx kvm a fail\n"),
        Verdict::Failed
    );
}

/// Of a table whose attack x may be absent on svm: verdicts and complaints of both legs, and the page.
fn attack(results: &str) -> ([Verdict; 2], String, String) {
    let exception =
        "[[exception]]\nattacks = [\"x\"]\nlegs = [\"svm\"]\noutcome = \"absent\"\nwhy = \"no CET\"\n";
    let table = Table::parse(&(table("tests = [\"attack/x\"]") + exception)).unwrap();
    let results = format!("{results}vmx attack neighbour pass\nsvm attack neighbour pass\n");
    let legs = ["vmx", "svm"].map(|leg| Leg::parse(&results, leg));
    let report = Report::new(&table, &legs, BTreeMap::new()).unwrap();
    let complaints = legs.iter().flat_map(|leg| table.complaints(leg));
    let complaints = complaints.map(|(name, why)| format!("{name} {why}"));
    let verdicts = [0, 1].map(|leg| report.rows[0].verdicts[leg]);
    (verdicts, complaints.collect(), print::rst(&report))
}

#[test]
fn attacks_are_denied_but_for_exceptions() {
    use Verdict::{
        Denied,
        Failed,
        NotEnforced, //
    };
    let check = |results: &str, verdicts: [Verdict; 2], complaint: &str| {
        let (got, complaints, page) = attack(results);
        assert_eq!((got, complaints.as_str()), (verdicts, complaint));
        page
    };
    let both = |vmx: &str, svm: &str| format!("vmx attack x {vmx}\nsvm attack x {svm}\n");
    let absent = "skip absent(the CPU lacks it)";
    let page = check(&both("pass", absent), [Denied, NotEnforced], "");
    assert!(page.contains("``attack/x``. Not on svm: ``attack/x``: no CET\n"));
    check(&both("pass", "pass"), [Denied, Denied], "");
    let denied = "x must be denied here, and is not";
    check(&both(absent, "pass"), [Failed, Denied], denied);
    let other = "x must be absent here: no CET";
    check(&both("pass", "skip not enforced"), [Denied, Failed], other);
    // What failed is known already; what may be absent must say so.
    check(&both("pass", "fail succeeded"), [Denied, Failed], "");
    check("vmx attack x pass\n", [Denied, Failed], "x did not run");
}

#[test]
fn all_remarks_are_kept() {
    let row = "tests = [\"kvm/a\"]\nlimits = \"one\"\nnot_enforced = \"two\"\nsee = [\"S\", \"T\"]";
    let passed = "vmx kvm a pass\nsvm kvm a pass\n";
    assert_eq!(
        remark(row, passed),
        "``kvm/a``. Open: one; two. See *S*, *T*"
    );
    assert_eq!(
        remark("not_enforced = \"two\"\nsee = [\"S\"]", ""),
        "two. See *S*"
    );
}

#[test]
fn what_did_not_run_says_why() {
    // What is open on all legs is no reason.
    let row = "tests = [\"kvm/a\"]\nlimits = \"y\"\nsee = [\"S\"]";
    let why = report(row, "vmx kvm a pass\nsvm kvm a skip\n").map(|_| ());
    assert_eq!(
        why,
        Err("row 1: kvm/a is skipped on svm, and says no reason".to_owned())
    );
    assert_eq!(
        remark(row, "vmx kvm a pass\nsvm kvm a skip no GMET\n"),
        "``kvm/a``. Not on svm: ``kvm/a``: no GMET. Open: y. See *S*"
    );
}

#[test]
fn reasons_are_said_once() {
    let row = "tests = [\"kvm/a.*\", \"kvm/b\", \"kvm/c.x_*\"]";
    let results = "\
vmx kvm a.one.x skip no CET here
vmx kvm a.one.y skip no CET here
vmx kvm a.two.x pass
vmx kvm a.two.y skip other
vmx kvm b skip no CET here
vmx kvm b.z skip no CET here
vmx kvm c.x_1 pass
vmx kvm c.y skip
svm kvm a.one.x skip no CET here
svm kvm a.two.x skip no CET here
svm kvm b skip no CET here
svm kvm c.x_1 skip VMX only
svm kvm c.x_2 skip VMX only
";
    assert_eq!(
        remark(row, results),
        "``kvm/a.*``, ``kvm/b``, ``kvm/c.x_*``. \
         Not on svm: ``kvm/c.x_*``: VMX only; ``kvm/a.*``: no CET here. \
         Not on vmx: ``kvm/a.one.*``: no CET here; ``kvm/a.two.y``: other. \
         Not on vmx and svm: ``kvm/b``: no CET here"
    );
}

#[test]
fn every_row_is_printed() {
    let table = Table::parse(TABLE).unwrap();
    let results = "vmx attack rodata pass\nsvm attack rodata pass\n";
    let legs = ["svm", "vmx"].map(|leg| Leg::parse(results, leg));
    let versions = BTreeMap::from([("kernel".to_owned(), "7.3.4".to_owned())]);
    let report = Report::new(&table, &legs, versions).unwrap();
    for text in [
        print::plain(&report),
        print::rst(&report),
        print::markdown(&report),
    ] {
        for row in &report.rows {
            assert!(text.contains(&row.attack));
        }
        assert!(text.contains("svm") && text.contains("vmx"));
    }
    let rst = print::rst(&report);
    let title = rst.lines().nth(3).unwrap();
    assert_eq!(rst.lines().nth(2).unwrap().len(), title.len());
    assert!(rst.contains("- kernel: 7.3.4\n"));
}
