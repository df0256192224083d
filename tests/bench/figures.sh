# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2154  # $tmp is the caller's
#
# figures.sh - from samples to figures; sourced by run.
#
# $tmp/samples holds lines "NAME VALUE", one a measurement, the rounds in
# order; $tmp/figures collects what has been printed, for json.

# summary: of the numbers on stdin, "median low high count"
summary() {
	sort -g | awk '
		{ v[NR] = $1 }
		END {
			if (!NR)
				exit 1
			m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
			print m, v[1], v[NR], NR
		}'
}

samples() { awk -v n="$1" '$1 == n { print $2 }' "$tmp/samples"; }

# figure NAME UNIT REFERENCE GOAL NOTE "MEDIAN LOW HIGH COUNT" DIGITS
figure() {
	local median low high count
	read -r median low high count <<<"$6"
	printf -v median "%.$7f" "$median"
	printf -v low "%.$7f" "$low"
	printf -v high "%.$7f" "$high"
	printf 'bench %s %s %s reference="%s" goal="%s" spread=%s..%s n=%s note="%s"\n' \
		"$1" "$median" "$2" "$3" "$4" "$low" "$high" "$count" "$5"
	printf 'figure\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' \
		"$1" "$median" "$2" "$3" "$4" "$low" "$high" "$count" "$5" >>"$tmp/figures"
}

# ratio NAME SAMPLE BASE REFERENCE GOAL NOTE [UNIT]: round by round, SAMPLE / BASE.
# The absolute medians of both stand in the note.
ratio() {
	local each a b unit=${7:-instructions/write}
	each=$(paste <(samples "$2") <(samples "$3") | awk 'NF == 2 && $2 > 0 { print $1 / $2 }' | summary) ||
		{ cannot "$1" "no samples of $2 and $3"; return; }
	a=$(samples "$2" | summary | awk '{ printf "%.0f", $1 }')
	b=$(samples "$3" | summary | awk '{ printf "%.0f", $1 }')
	figure "$1" ratio "$4" "$5" "$6: $a against $b $unit" "$each" 3
}

# difference NAME SAMPLE BASE UNIT REFERENCE GOAL NOTE: round by round, SAMPLE - BASE
difference() {
	local each
	each=$(paste <(samples "$2") <(samples "$3") | awk 'NF == 2 { print $1 - $2 }' | summary) ||
		{ cannot "$1" "no samples of $2 and $3"; return; }
	figure "$1" "$4" "$5" "$6" "$7" "$each" 0
}

# value NAME SAMPLE UNIT REFERENCE GOAL NOTE
value() {
	local each digits=2
	each=$(samples "$2" | summary) || { cannot "$1" "no samples of $2"; return; }
	[[ $3 == KiB* ]] && digits=0
	figure "$1" "$3" "$4" "$5" "$6" "$each" "$digits"
}

# json: all of $tmp/figures. The texts are ours and hold neither quotes nor backslashes.
json() {
	awk -F '\t' -v kernel="$kernel" '
		BEGIN { printf "{\n  \"kernel\": \"%s\",\n  \"figures\": [", kernel }
		function met(value, goal, part) {
			split(goal, part, " ")
			if (part[1] == "<")
				return value < part[2] ? "true" : "false"
			if (part[1] == "<=")
				return value <= part[2] ? "true" : "false"
			if (part[1] == ">=")
				return value >= part[2] ? "true" : "false"
			return "null"
		}
		$1 == "figure" {
			printf "%s\n    {\"name\": \"%s\", \"value\": %s, \"unit\": \"%s\", \"reference\": \"%s\", ",
				(f++ ? "," : ""), $2, $3, $4, $5
			printf "\"goal\": \"%s\", \"goal_met\": %s, \"low\": %s, \"high\": %s, \"n\": %s, \"note\": \"%s\"}",
				$6, met($3 + 0, $6), $7, $8, $9, $10
		}
		$1 == "fail" { failed[++n] = sprintf("{\"name\": \"%s\", \"why\": \"%s\"}", $2, $3) }
		END {
			printf "\n  ],\n  \"unmeasured\": ["
			for (i = 1; i <= n; i++)
				printf "%s\n    %s", (i > 1 ? "," : ""), failed[i]
			printf "%s]\n}\n", (n ? "\n  " : "")
		}' "$tmp/figures"
}
