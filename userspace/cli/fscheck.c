// SPDX-License-Identifier: GPL-2.0-or-later
/* fscheck: see fscheck.h. */
#include "fscheck.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"
#include "util.h"

#define ARGUMENTS_MAX 6u

/**
 * struct checker - how a type is checked
 * @replay: does what a machine that starts does before it mounts it: replays the journal, and drops files that were
 *	deleted while open. Not "e2fsck -y -E journal_only", which repairs all that it finds where the journal is damaged.
 * @mounted: mounting it does that
 * @check: looks at it; the device comes last
 * @package: has the program
 * @crash_safe: it is consistent as of every instant
 */
static const struct checker {
	const char *type;
	const char *replay[ARGUMENTS_MAX], *check[ARGUMENTS_MAX];
	const char *package;
	bool mounted, crash_safe;
} checkers[] = {
	{ "ext4", { "e2fsck", "-p" }, { "e2fsck", "-f", "-n" }, "e2fsprogs", false, true },
	{ "ext3", { "e2fsck", "-p" }, { "e2fsck", "-f", "-n" }, "e2fsprogs", false, true },
	{ "ext2", { NULL }, { "e2fsck", "-f", "-n" }, "e2fsprogs", false, false },
	{ "xfs", { NULL }, { "xfs_repair", "-n" }, "xfsprogs", true, true },
	{ "btrfs", { NULL }, { "btrfs", "check", "--readonly" }, "btrfs-progs", false, true },
	{ "vfat", { NULL }, { "fsck.fat", "-n" }, "dosfstools", false, false },
};

static const struct checker *find(const char *type)
{
	for (size_t i = 0; i < ARRAY_LENGTH(checkers); i++)
		if (!strcmp(checkers[i].type, type))
			return &checkers[i];
	return NULL;
}

/* The first line that is neither the program's name nor says how far it is. */
static void complaint(const char *output, char detail[FSCHECK_DETAIL_BYTES])
{
	static const char *const boring[] = { "e2fsck ", "Pass ", "Phase ", "        - ", "fsck.fat ", "Opening filesystem to check",
					      "Checking filesystem on", "UUID: ", "[" };
	CLEANUP_FREE char *copy = strdup(output);
	char *rest = copy, *line;

	snprintf(detail, FSCHECK_DETAIL_BYTES, "it said nothing");
	while (rest && (line = strsep(&rest, "\n"))) {
		bool skip = !line[strspn(line, " \t")];

		for (size_t i = 0; i < ARRAY_LENGTH(boring) && !skip; i++)
			skip = !strncmp(line, boring[i], strlen(boring[i]));
		if (skip)
			continue;
		snprintf(detail, FSCHECK_DETAIL_BYTES, "%s", line + strspn(line, " \t"));
		return;
	}
}

/* The first line of @output with @word in it, into @detail. */
static bool line_with(const char *output, const char *word, char detail[FSCHECK_DETAIL_BYTES])
{
	const char *found = strstr(output, word), *from = found, *to;

	if (!found)
		return false;
	while (from > output && from[-1] != '\n')
		from--;
	to = from + strcspn(from, "\n");
	snprintf(detail, FSCHECK_DETAIL_BYTES, "%.*s", (int)(to - from), from);
	return true;
}

enum fscheck_result fscheck_judge(const char *type, int exit, const char *output, char detail[FSCHECK_DETAIL_BYTES])
{
	const struct checker *checker = find(type);

	*detail = '\0';
	if (!exit)
		return FSCHECK_GOOD;
	complaint(output, detail);
	if (exit >= 126) /* it could not be run, or a signal ended it */
		return FSCHECK_WARNING;
	return checker && checker->crash_safe ? FSCHECK_BAD : FSCHECK_WARNING;
}

/* Of a program that did not come to its end. */
static enum fscheck_result not_run(const char *program, const char *package, int rc, char detail[FSCHECK_DETAIL_BYTES])
{
	if (rc == -ENOENT)
		snprintf(detail, FSCHECK_DETAIL_BYTES, "not checked: there is no program %s (package %s)", program, package);
	else if (rc == -ETIMEDOUT)
		snprintf(detail, FSCHECK_DETAIL_BYTES, "not checked: %s did not end in time (--timeout)", program);
	else
		snprintf(detail, FSCHECK_DETAIL_BYTES, "not checked: %s: %s", program, rc == -EINTR ? "interrupted" : strerror(-rc));
	return rc == -ENOENT ? FSCHECK_SKIPPED : FSCHECK_WARNING;
}

static int run(const char *const *words, const char *device, uint64_t timeout_ms, struct run_result *result)
{
	const char *argv[ARGUMENTS_MAX + 2] = { NULL };
	size_t count = 0;

	for (; count < ARGUMENTS_MAX && words[count]; count++)
		argv[count] = words[count];
	argv[count] = device;
	return run_program(argv, NULL, timeout_ms, result);
}

/* Of e2fsck -p: 4 and more: it cannot be repaired without asking. */
static enum fscheck_result judge_replay(const struct run_result *result, char detail[FSCHECK_DETAIL_BYTES])
{
	if (result->exit >= 4 && result->exit < 126) {
		complaint(result->output, detail);
		return FSCHECK_BAD;
	}
	/* It was marked by the machine itself, and is so no more. */
	return line_with(result->output, "with errors", detail) ? FSCHECK_WARNING : FSCHECK_GOOD;
}

/* Its journal, by the kernel. 0; 1: it cannot be mounted, said in @detail; negative errno. */
static int replay_by_mount(const char *device, const char *type, uint64_t timeout_ms, struct run_result *result,
			   char detail[FSCHECK_DETAIL_BYTES])
{
	char dir[] = "/run/reprotect/verify-XXXXXX";
	const char *mount[] = { "mount", "-t", type, "-o", "nouuid,nosuid,nodev,noexec", device, dir, NULL };
	const char *umount[] = { "umount", dir, NULL };
	int rc = util_mkdirs("/run/reprotect");

	if (!rc && !mkdtemp(dir))
		rc = -errno;
	if (rc)
		return rc;
	rc = run_program(mount, NULL, timeout_ms, result);
	if (!rc && result->exit) {
		snprintf(detail, FSCHECK_DETAIL_BYTES, "its log cannot be replayed: %s", run_last_line(result->output));
		rc = 1;
	} else {
		int end = run_program(umount, NULL, timeout_ms, result);

		rc = rc ? rc : end ? end : result->exit ? -EBUSY : 0;
	}
	rmdir(dir);
	return rc;
}

enum fscheck_result fscheck(const char *device, const char *type, uint64_t timeout_ms, char detail[FSCHECK_DETAIL_BYTES])
{
	const struct checker *checker = find(type);
	enum fscheck_result found = FSCHECK_GOOD;
	struct run_result result;
	int rc;

	*detail = '\0';
	if (!checker) {
		snprintf(detail, FSCHECK_DETAIL_BYTES, "not checked: no program is known for it");
		return FSCHECK_SKIPPED;
	}
	if (*checker->replay) {
		rc = run(checker->replay, device, timeout_ms, &result);
		if (rc)
			return not_run(*checker->replay, checker->package, rc, detail);
		found = judge_replay(&result, detail);
		if (found == FSCHECK_BAD)
			return found;
	}
	if (checker->mounted) {
		rc = replay_by_mount(device, type, timeout_ms, &result, detail);
		if (rc)
			return rc > 0 ? FSCHECK_BAD : not_run("mount", "mount", rc, detail);
	}
	rc = run(checker->check, device, timeout_ms, &result);
	if (rc)
		return not_run(*checker->check, checker->package, rc, detail);
	if (found != FSCHECK_GOOD && !result.exit)
		return found;
	return fscheck_judge(type, result.exit, result.output, detail);
}

enum fscheck_result fscheck_judge_table(int exit, const char *output, char detail[FSCHECK_DETAIL_BYTES])
{
	/* What it says and does not count: a damaged copy of a GPT, one of a disk of another size, a table that is too long. */
	static const char *const doubts[] = { "corrupt", "mismatch", "greater than" };

	*detail = '\0';
	if (exit || !strstr(output, "No errors detected")) {
		complaint(output, detail);
		return FSCHECK_BAD;
	}
	for (size_t i = 0; i < ARRAY_LENGTH(doubts); i++)
		if (line_with(output, doubts[i], detail))
			return FSCHECK_WARNING;
	return FSCHECK_GOOD;
}

enum fscheck_result fscheck_table(const char *device, uint64_t timeout_ms, char detail[FSCHECK_DETAIL_BYTES])
{
	static const char *const words[ARGUMENTS_MAX] = { "sfdisk", "--verify" };
	struct run_result result;
	int rc = run(words, device, timeout_ms, &result);

	return rc ? not_run(*words, "fdisk", rc, detail) : fscheck_judge_table(result.exit, result.output, detail);
}
