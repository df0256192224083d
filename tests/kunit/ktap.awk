# SPDX-License-Identifier: GPL-2.0-or-later
#
# ktap.awk - KUnit's nested results, from the console, as flat lines of TAP:
#
#	ok 3 - map: page_on_demand
#	not ok 4 - map: one_range: 0 to 63
#
# A case with parameters counts by them, a suite by its cases; what a suite
# announced ("1..N") and did not finish is one more failure. Messages of failed
# cases come before their line, as comments.

function result(ok, name)
{
	if (!ok)
		printf "%s", messages
	messages = ""
	count++
	printf "%s %d - %s\n", ok ? "ok" : "not ok", count, name
	ok ? passed++ : failed++
}

function name_of(line)
{
	sub(/^ *(not )?ok [0-9]+ (- )?/, "", line)
	return line
}

{ sub(/\r$/, "") }

/^    # Subtest: / {
	suite = substr($0, 16)
	started[suite] = 1
	cases = 0
	params = 0
	next
}
/^    1\.\.[0-9]+$/ { plan = substr($0, 8) + 0; next }

# a parameter
/^        (not )?ok [0-9]+ / {
	bad = /^ *not/
	param[++params] = name_of($0)
	param_bad[params] = bad
	param_messages[params] = messages
	messages = ""
	next
}

# a case; its name stands behind its parameters
/^    (not )?ok [0-9]+ / {
	bad = /^ *not/
	name = suite ": " name_of($0)
	cases++
	any = 0
	rest = messages
	for (i = 1; i <= params; i++) {
		messages = param_messages[i]
		result(!param_bad[i], name ": " param[i])
		any += param_bad[i]
	}
	messages = rest
	if (!params || (bad && !any))
		result(!bad, name)
	params = 0
	messages = ""
	next
}

# a suite
/^(not )?ok [0-9]+ / {
	done = name_of($0)
	if (cases != plan)
		result(0, done ": " cases " of " plan " cases ran")
	finished[done] = 1
	messages = ""
	next
}

/^ +# .*: pass:[0-9]+ fail:/ || /^ *# Totals: / || /^ *KTAP version/ || /^ +# Subtest: / { next }
/^ +/ { messages = messages "#" $0 "\n" }

END {
	n = split(suites, wanted, " ")
	for (i = 1; i <= n; i++)
		if (!finished[wanted[i]])
			result(0, wanted[i] ": suite " (started[wanted[i]] ? "did not finish" : "did not run"))
	printf "%d %d\n", passed, failed >counts
}
