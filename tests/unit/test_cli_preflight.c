/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reprotect preflight retention: what it prints, how it ends, and what it takes from a master target that runs: a
 * child that answers on a control socket.
 */
/* LINK: userspace/cli/preflight.c userspace/cli/client.c userspace/cli/format.c */
#include "control.h"
#include "lock.h"
#include "userspace/cli/cli.h"
#include "util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

static char *printed(const char *text)
{
	CLEANUP_JSON json_t *json = json_loads(text, 0, NULL);
	char *out = NULL;
	size_t bytes;
	FILE *stream = open_memstream(&out, &bytes);

	assert_true(json && stream);
	preflight_print(json, stream);
	fclose(stream);
	return out;
}

static void one_line_a_criterion(void **state)
{
	CLEANUP_FREE char *out = printed(
		"{\"path\":\"/r\",\"verdict\":\"refused\",\"note\":\"n\",\"checks\":["
		"{\"check\":\"type\",\"result\":\"good\",\"message\":\"retention volume /r: it is ext4\",\"remedy\":\"\"},"
		"{\"check\":\"write\",\"result\":\"warning\",\"message\":\"retention volume /r: it is full\",\"remedy\":\"enlarge\"},"
		"{\"check\":\"lock\",\"result\":\"refused\",\"message\":\"x\\u001b y\",\"remedy\":\"stop it\"}]}");

	(void)state;
	assert_string_equal(out, "retention volume /r\n"
				 "  good     type        it is ext4\n"
				 "  warning  write       it is full\n"
				 "    to do: enlarge\n"
				 "  REFUSED  lock        x? y\n"
				 "    to do: stop it\n"
				 "  note     n\n"
				 "verdict: REFUSED, undo logs cannot be kept there\n");
}

static void a_verdict_for_each_level(void **state)
{
	CLEANUP_FREE char *good = printed("{\"path\":\"/r\",\"verdict\":\"good\",\"checks\":[]}");
	CLEANUP_FREE char *warning = printed("{\"path\":\"/r\",\"verdict\":\"warning\",\"checks\":[]}");

	(void)state;
	assert_string_equal(good, "retention volume /r\nverdict: fit for undo logs\n");
	assert_string_equal(warning, "retention volume /r\nverdict: fit for undo logs, with warnings\n");
}

/* ---- the command, beside a master target ------------------------------------------- */

struct rig {
	char dir[64], socket[96];
	pid_t daemon;
};

static json_t *answer(const char *command, const json_t *request, void *user)
{
	(void)request;
	return strcmp(command, "status") ? NULL : json_incref(user);
}

static int setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	*state = rig;
	if (!rig)
		return -1;
	snprintf(rig->dir, sizeof(rig->dir), "/tmp/test_preflight.XXXXXX");
	if (!mkdtemp(rig->dir))
		return -1;
	snprintf(rig->socket, sizeof(rig->socket), "%s/socket", rig->dir);
	return 0;
}

static int teardown(void **state)
{
	struct rig *rig = *state;
	char path[128];

	if (rig->daemon > 0 && !kill(rig->daemon, SIGKILL))
		waitpid(rig->daemon, NULL, 0);
	snprintf(path, sizeof(path), "%s/volume/lock", rig->dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/volume", rig->dir);
	rmdir(path);
	unlink(rig->socket);
	rmdir(rig->dir);
	free(rig);
	return 0;
}

/* Answers with @status, and has the lock of @locked, until it is killed. */
static void run_daemon(struct rig *rig, json_t *status, const char *locked)
{
	int ready[2];
	char byte;

	assert_non_null(status);
	assert_int_equal(pipe(ready), 0);
	rig->daemon = fork();
	if (!rig->daemon) {
		struct control *control;
		sd_event *event;
		int fd = open(locked, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

		if (fd < 0 || lock_take(fd, "test", 0, NULL) || sd_event_default(&event) < 0 ||
		    control_new(&control, event, rig->socket, answer, status) || write(ready[1], "", 1) != 1)
			_exit(1);
		_exit(sd_event_loop(event) != 0);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	json_decref(status);
}

/* What it prints on standard output, as JSON. */
static json_t *run(const struct rig *rig, const char *path, enum cli_exit expected)
{
	char *arguments[] = { (char *)(uintptr_t)path, NULL };
	struct cli_options options = { .socket = rig->socket, .json = true, .argc = path ? 1 : 0, .argv = arguments };
	CLEANUP_FILE FILE *file = tmpfile();
	int out = dup(STDOUT_FILENO);
	enum cli_exit rc;
	json_t *json;

	assert_true(file && out >= 0);
	fflush(stdout);
	dup2(fileno(file), STDOUT_FILENO);
	rc = command_preflight_retention(&options);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	close(out);
	rewind(file);
	json = json_loadf(file, 0, NULL);
	assert_int_equal(rc, expected);
	return json;
}

static const json_t *check(const json_t *json, const char *name)
{
	const json_t *checks = json_object_get(json, "checks"), *one;
	size_t i;

	json_array_foreach(checks, i, one)
		if (!strcmp(cli_text(one, "check"), name))
			return one;
	fail_msg("no check %s", name);
	return NULL;
}

static void without_a_master_target_the_default_is_looked_at(void **state)
{
	CLEANUP_JSON json_t *json = NULL;

	if (!access("/mnt/retention", F_OK)) {
		print_message("skipped: /mnt/retention exists\n");
		skip();
	}
	json = run(*state, NULL, CLI_FAILED);
	assert_string_equal(cli_text(json, "path"), "/mnt/retention");
	assert_non_null(strstr(cli_text(json, "note"), "master target does not run here"));
	assert_non_null(strstr(cli_text(check(json, "directory"), "message"), "does not exist"));
}

/* The volume and what must lie elsewhere come from the daemon; its lock is no fault, a target image on the volume is one. */
static void a_running_master_target_is_asked(void **state)
{
	struct rig *rig = *state;
	CLEANUP_JSON json_t *json = NULL, *other = NULL;
	char volume[96], other_name[128], lock[128], image[128];

	snprintf(volume, sizeof(volume), "%s/volume", rig->dir);
	snprintf(other_name, sizeof(other_name), "%s/./volume/", rig->dir);
	snprintf(lock, sizeof(lock), "%s/lock", volume);
	snprintf(image, sizeof(image), "%s/target.img", volume);
	assert_int_equal(mkdir(volume, 0700), 0);
	run_daemon(rig,
		   json_pack("{s:b, s:s, s:{s:s, s:I, s:I, s:I}, s:[{s:[{s:s}]}]}", "ok", 1, "state_dir", "/nowhere", "retention",
			     "path", volume, "keep_all_ms", (json_int_t)7200000, "churn_bytes_per_hour", (json_int_t)1 << 60,
			     "max_bytes", (json_int_t)0, "machines", "disks", "path", image),
		   lock);
	json = run(rig, NULL, CLI_FAILED); /* on the root file system, at least */
	assert_string_equal(cli_text(json, "path"), volume);
	assert_string_equal(cli_text(json, "note"), "");
	assert_string_equal(cli_text(check(json, "lock"), "result"), "good");
	assert_non_null(strstr(cli_text(check(json, "lock"), "message"), "in use by the master target on this machine"));
	assert_non_null(strstr(cli_text(check(json, "contents"), "message"), image));
	assert_string_equal(cli_text(check(json, "policy"), "result"), "warning");
	assert_true(cli_number(json, "bytes_needed") == 3ull << 60);
	other = run(rig, other_name, CLI_FAILED); /* the same by another name */
	assert_string_equal(cli_text(check(other, "lock"), "result"), "good");
}

static void a_volume_that_it_does_not_use_is_not_its_own(void **state)
{
	struct rig *rig = *state;
	CLEANUP_JSON json_t *json = NULL;
	char volume[96], lock[128];

	snprintf(volume, sizeof(volume), "%s/volume", rig->dir);
	snprintf(lock, sizeof(lock), "%s/lock", volume);
	assert_int_equal(mkdir(volume, 0700), 0);
	run_daemon(rig, json_pack("{s:b, s:n, s:[]}", "ok", 1, "retention", "machines"), lock);
	json = run(rig, volume, CLI_FAILED);
	assert_string_equal(cli_text(check(json, "lock"), "result"), "refused");
	json_decref(json);
	json = run(rig, NULL, CLI_FAILED);
	assert_string_equal(cli_text(json, "path"), "/mnt/retention");
	assert_non_null(strstr(cli_text(json, "note"), "keeps no undo logs"));
}

static void wrong_usage(void **state)
{
	char *two[] = { (char[]){ "/a" }, (char[]){ "/b" }, NULL }, *relative[] = { (char[]){ "a" }, NULL };
	struct cli_options options = { .argc = 2, .argv = two };

	(void)state;
	assert_int_equal(command_preflight_retention(&options), CLI_USAGE);
	options = (struct cli_options){ .argc = 1, .argv = relative };
	assert_int_equal(command_preflight_retention(&options), CLI_USAGE);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_line_a_criterion),
		cmocka_unit_test(a_verdict_for_each_level),
		cmocka_unit_test(wrong_usage),
		T(without_a_master_target_the_default_is_looked_at),
		T(a_running_master_target_is_asked),
		T(a_volume_that_it_does_not_use_is_not_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
