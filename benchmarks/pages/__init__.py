"""Every figure of our pages, written from reports and from the code; nothing is measured here.

    python benchmarks/pages     # fill README.md and docs/ anew (`make docs` writes docs/rivals.md too)

A page says itself where its figures come from, in comments that no reader sees. A table stands between

    <!-- table certificates schedules/plans/emoji-pixart/*/report.json -->
    <!-- /table -->

which name its generator (``pages.tables``) and its reports. A figure in a sentence stands between

    <!-- figure balanced balanced.fidelity.psnr_db.mean .1f -->38.5<!-- /figure -->

which name its file, the way to a value in it (``pages.values``) and its format. A file that is named often gets a
short name, on a line of its own: ``<!-- source balanced schedules/plans/emoji-pixart/balanced/report.json -->``.
A test fills the pages anew and compares; another one finds measured quantities that stand outside such comments
(``pages.loose``).
"""
