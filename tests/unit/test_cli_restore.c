/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of reprotect points: what it says (lists, plans of a rollback, its progress and its end, what is discarded), and what it
 * asks a master target, which is one that does as told, in a process of its own.
 */
/* LINK: userspace/cli/points.c userspace/cli/points_print.c userspace/cli/format.c userspace/cli/client.c */
#include "control.h"
#include "userspace/cli/points_print.h"
#include "util.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include <systemd/sd-event.h>
#include <time.h>

#include <cmocka.h>

static json_t *parse(const char *text)
{
	json_error_t why;
	json_t *json = json_loads(text, 0, &why);

	if (!json)
		fail_msg("%s: %s", text, why.text);
	return json;
}

static char *shown(void (*show)(const json_t *json, FILE *out), const char *text)
{
	CLEANUP_JSON json_t *json = parse(text);
	char *out = NULL;
	size_t bytes;
	FILE *stream = open_memstream(&out, &bytes);

	assert_non_null(stream);
	show(json, stream);
	fclose(stream);
	return out;
}

static int setup(void **state)
{
	(void)state;
	setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
	tzset();
	return 0;
}

#define DISKS "\"disks\":[{\"id\":0,\"name\":\"root\",\"path\":\"/dev/a\"},{\"id\":1,\"name\":\"data\",\"path\":\"/dev/b\\u0007\"}]"
#define CRASH \
	"{\"id\":14,\"kind\":\"crash\",\"name\":null,\"time_ms\":1796004720000,\"age_ms\":7200000,\"size_bytes\":1048576," \
	"\"present\":false,\"consistent\":true,\"complete\":false,\"why\":\"disk data is not in it\",\"pinned\":false," \
	"\"verified\":null,\"before_rollback\":false,\"copy_of\":0,\"disks\":[{\"id\":0,\"name\":\"root\",\"path\":\"/dev/a\"}]}"
#define APP(verified) \
	"{\"id\":17,\"kind\":\"app\",\"name\":\"de\\u001bploy\",\"time_ms\":1796004725000,\"age_ms\":7195000,\"size_bytes\":4096," \
	"\"present\":false,\"consistent\":true,\"complete\":true,\"why\":null,\"pinned\":true," \
	"\"verified\":" verified ",\"before_rollback\":false,\"copy_of\":0," DISKS "}"
#define BEFORE \
	"{\"id\":18,\"kind\":\"none\",\"name\":null,\"time_ms\":1796011900000,\"age_ms\":20000,\"size_bytes\":512," \
	"\"present\":false,\"consistent\":false,\"complete\":true,\"why\":null,\"pinned\":false," \
	"\"verified\":null,\"before_rollback\":true,\"copy_of\":0," DISKS "}"
#define PRESENT \
	"{\"id\":19,\"kind\":\"app\",\"name\":\"deploy\",\"time_ms\":1796004725000,\"age_ms\":7195000,\"size_bytes\":0," \
	"\"present\":true,\"consistent\":true,\"complete\":true,\"why\":null,\"pinned\":false," \
	"\"verified\":null,\"before_rollback\":false,\"copy_of\":17," DISKS "}"

static void a_list(void **state)
{
	CLEANUP_FREE char *out = shown(points_print_machine,
		"{\"machine\":\"u-1\",\"host\":\"web\",\"status\":\"rolled-back\",\"log\":\"/r/u-1\",\"syncing\":false,"
		"\"retention_bytes\":1536,\"rollback\":{\"state\":\"done\"},\"points\":["
		CRASH "," APP("{\"result\":\"good\"}") "," BEFORE "," PRESENT "]}");

	(void)state;
	assert_string_equal(out,
		"machine web, rolled-back, uuid u-1\n"
		"      ID  TIME                          AGE  KIND   NAME           SIZE  DISKS\n"
		"      14  2026-11-30 03:12:00    2 h 00 min  crash  -             1 MiB      1  not complete: disk data is not in it\n"
		"      17  2026-11-30 03:12:05    1 h 59 min  app    de?ploy       4 KiB      2  pinned, verified\n"
		"      18  2026-11-30 05:11:40        20.0 s  none   -             512 B      2  before the rollback, NOT CONSISTENT\n"
		"      19  2026-11-30 03:12:05    1 h 59 min  app    deploy            -      2  present, rolled back to #17\n"
		"4 points, 2 of them app-consistent, 1 pinned, 1 not complete; from 2026-11-30 03:12:00 to 2026-11-30 05:11:40, "
		"local time: CET (+0100); 1.5 KiB on the retention volume\n");
}

static void verdicts_are_in_the_list(void **state)
{
	static const struct {
		const char *machine, *text;
	} cases[] = {
#define MACHINE(verified) "{\"machine\":\"u\",\"host\":\"h\",\"log\":\"/r\",\"points\":[" APP(verified) "]}"
		{ MACHINE("{\"result\":\"bad\"}"), "verified: BAD" },
		{ MACHINE("{\"result\":\"warning\"}"), "verified: warning" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
		CLEANUP_FREE char *out = shown(points_print_machine, cases[i].machine);

		assert_non_null(strstr(out, cases[i].text));
		assert_non_null(strstr(out, "1 point, 1 of them"));
	}
}

static void no_points_and_why(void **state)
{
	CLEANUP_FREE char *syncing = shown(points_print_machine,
		"{\"machine\":\"u\",\"host\":\"h\",\"log\":\"/r\",\"syncing\":true,\"points\":[]}");
	CLEANUP_FREE char *off = shown(points_print_machine,
		"{\"machine\":\"u\",\"host\":\"h\",\"log\":null,\"syncing\":false,\"points\":[]}");
	CLEANUP_FREE char *yet = shown(points_print_machine,
		"{\"machine\":\"u\",\"host\":\"h\",\"log\":\"/r\",\"syncing\":false,\"points\":[]}");

	(void)state;
	assert_non_null(strstr(syncing, "initial sync or resync"));
	assert_non_null(strstr(off, "no undo log is kept (retention in"));
	assert_non_null(strstr(yet, "no recovery point yet"));
}

static void a_rollback_under_way_is_in_the_list(void **state)
{
	CLEANUP_FREE char *out = shown(points_print_machine,
		"{\"machine\":\"u\",\"host\":\"h\",\"log\":\"/r\",\"points\":[],\"rollback\":{\"state\":\"restoring\","
		"\"done_bytes\":1048576,\"total_bytes\":4194304,\"rate_bytes_per_second\":1048576,\"eta_ms\":3000}}");

	(void)state;
	assert_non_null(strstr(out, "rollback: restoring  [#######-----------------------]  25 %  1 MiB of 4 MiB, 1 MiB/s, 3.0 s left\n"));
}

#define PLAN(point, room) \
	"{\"host\":\"web\",\"from\":{\"id\":20,\"kind\":\"none\",\"name\":null,\"time_ms\":1796011900000,\"consistent\":false}," \
	"\"point\":" point ",\"newer\":3,\"estimate\":{\"bytes\":3221225472,\"undo_bytes\":2147483648,\"free_bytes\":" room "," \
	"\"seconds\":90}}"

static void a_plan(void **state)
{
	CLEANUP_FREE char *out = shown(points_print_plan, PLAN(APP("{\"result\":\"good\"}"), "10737418240"));

	(void)state;
	assert_string_equal(out,
		"Roll back the disks of machine web\n"
		"  from #20 (2026-11-30 05:11:40, not consistent)\n"
		"  to   #17 \"de?ploy\" (2026-11-30 03:12:05, app), 1 h 59 min old\n"
		"  disk root, /dev/a\n"
		"  disk data, /dev/b?\n"
		"At most 3 GiB are written to the disks, in about 1 min 30 s; 2 GiB of the retention volume are needed for what is\n"
		"overwritten, 10 GiB are free there.\n"
		"Nobody may use the disks meanwhile. What is on them now is kept, and newer points stay. Afterwards the\n"
		"disks can be started from; what the protected machine sends is refused until the rollback is taken back\n"
		"(reprotect points rollback web undo).\n");
}

static void a_plan_warns(void **state)
{
	CLEANUP_FREE char *bad = shown(points_print_plan, PLAN(APP("{\"result\":\"bad\"}"), "2147483647"));
	CLEANUP_FREE char *before = shown(points_print_plan, PLAN(BEFORE, "2147483648"));

	(void)state;
	assert_non_null(strstr(bad, "WARNING: that may not be enough"));
	assert_non_null(strstr(bad, "WARNING: points verify found it BAD"));
	assert_null(strstr(bad, "not consistent: of use only"));
	assert_null(strstr(before, "not be enough"));
	assert_non_null(strstr(before, "was not verified yet"));
	assert_non_null(strstr(before, "WARNING: what was before the rollback is not consistent"));
}

static void the_end(void **state)
{
	CLEANUP_JSON json_t *point = parse(APP("null"));
	CLEANUP_JSON json_t *waits = parse("{\"host\":\"web\",\"status\":\"rolled-back\",\"rollback\":{\"total_bytes\":1536}}");
	CLEANUP_JSON json_t *goes_on = parse("{\"host\":\"web\",\"status\":\"replicating\",\"rollback\":{\"total_bytes\":1536}}");
	char *texts[2] = { NULL, NULL };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		size_t bytes;
		FILE *stream = open_memstream(&texts[i], &bytes);

		points_print_done(i ? goes_on : waits, point, stream);
		fclose(stream);
	}
	assert_non_null(strstr(texts[0], "machine web: its disks are as they were at point #17 \"de?ploy\" (2026-11-30 03:12:05, app); "
					 "1.5 KiB were written.\n"));
	assert_non_null(strstr(texts[0], "all newer points are kept"));
	assert_non_null(strstr(texts[0], "reprotect points rollback web undo\n"));
	assert_non_null(strstr(texts[0], "reprotect points discard web --newer-than 17\n"));
	assert_non_null(strstr(texts[0], "reprotect target forget web\n"));
	assert_non_null(strstr(texts[1], "replication goes on"));
	assert_null(strstr(texts[1], "undo"));
	free(texts[0]);
	free(texts[1]);
}

static void progress(void **state)
{
	static const struct {
		const char *answer, *line;
	} cases[] = {
		{ "{\"rollback\":{\"state\":\"idle\"}}", "" },
		{ "{}", "" },
		{ "{\"rollback\":{\"state\":\"waiting\"},\"failing\":null}", "waiting for what is under way to end" },
		{ "{\"rollback\":{\"state\":\"waiting\"},\"failing\":{\"message\":\"no\\nroom\"}}",
		  "waiting for what is under way to end: no?room" },
		{ "{\"rollback\":{\"state\":\"undoing\",\"done_bytes\":0,\"total_bytes\":4096,\"rate_bytes_per_second\":0,\"eta_ms\":0}}",
		  "undoing what was not completed  [------------------------------]   0 %  0 B of 4 KiB, 0 B/s" },
		{ "{\"rollback\":{\"state\":\"done\"}}", "done" },
		{ "{\"rollback\":{\"state\":\"failed\",\"error\":{\"message\":\"disk x: \\u001bgone\"}}}", "failed: disk x: ?gone" },
	};
	char line[256], tiny[8];

	(void)state;
	for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
		CLEANUP_JSON json_t *answer = parse(cases[i].answer);

		assert_string_equal(points_progress(answer, line, sizeof(line)), cases[i].line);
		points_progress(answer, tiny, sizeof(tiny));
	}
}

static void what_is_discarded(void **state)
{
	CLEANUP_JSON json_t *answer = parse(
		"{\"host\":\"web\",\"discarded\":3,\"kept\":1,\"bytes\":4096,"
		"\"discarded_points\":[{\"id\":14,\"text\":\"#14 \\\"a\\u001b\\\"\",\"why\":null}],"
		"\"kept_points\":[{\"id\":17,\"text\":\"#17\",\"why\":\"it is pinned\"}]}");
	char *texts[2] = { NULL, NULL };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		size_t bytes;
		FILE *stream = open_memstream(&texts[i], &bytes);

		points_print_discard(answer, i, stream);
		fclose(stream);
	}
	assert_string_equal(texts[0], "machine web: 3 recovery points would be discarded (up to 4 KiB are given back)\n"
				      "  discard #14 \"a?\"\n"
				      "  discard 2 more\n"
				      "  keep #17: it is pinned\n");
	assert_string_equal(texts[1], "machine web: 3 recovery points discarded (up to 4 KiB are given back)\n"
				      "  keep #17: it is pinned\n");
	free(texts[0]);
	free(texts[1]);
}

/* ---- with a master target ----------------------------------------------------- */

/*
 * A master target of five points, two in an answer. Of a rollback it says "states" one by one. All requests go to a file.
 */
struct play {
	const char *const *states;
	const char *after; /* what rollback-status has besides */
	unsigned told;
	int log;
};

static json_t *play_points(const json_t *request)
{
	json_int_t after = json_integer_value(json_object_get(request, "after"));
	json_t *points = json_array();

	for (json_int_t id = after + 1; id <= 5 && id <= after + 2; id++)
		json_array_append_new(points, json_pack("{s:I, s:s, s:b, s:b}", "id", id, "kind", "crash", "consistent", 1,
							"complete", 1));
	return json_pack("{s:b, s:[{s:s, s:s, s:s, s:o, s:b}]}", "ok", 1, "machines", "machine", "u-1", "host", "web", "log",
			 "/r", "points", points, "more", after + 2 < 5);
}

static json_t *play(const char *command, const json_t *request, void *user)
{
	struct play *play = user;
	CLEANUP_FREE char *line = json_dumps(request, JSON_COMPACT | JSON_SORT_KEYS);
	json_t *answer;

	dprintf(play->log, "%s\n", line);
	if (!strcmp(command, "points"))
		return play_points(request);
	if (!strcmp(command, "rollback"))
		return parse("{\"ok\":true,\"host\":\"web\",\"machine\":\"u-1\",\"point\":" APP("null") ",\"rollback\":{}}");
	if (!strcmp(command, "rollback-status")) {
		answer = parse(play->after);
		json_object_set_new(answer, "rollback", json_pack("{s:s}", "state", play->states[play->told]));
		play->told += play->states[play->told + 1] != NULL;
		return answer;
	}
	if (!strcmp(command, "point-discard"))
		return parse("{\"ok\":true,\"host\":\"web\",\"discarded\":0,\"kept\":0}");
	return parse("{\"ok\":true,\"host\":\"web\",\"point\":" APP("null") "}");
}

struct stage {
	char dir[32], socket[64], log[64], out[64];
	pid_t pid;
};

static void serve(const struct stage *stage, struct play *play_of, int ready)
{
	struct control *control = NULL;
	sd_event *event = NULL;

	play_of->log = open(stage->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (sd_event_default(&event) < 0 || control_new(&control, event, stage->socket, play, play_of) ||
	    write(ready, "", 1) != 1)
		_exit(1);
	sd_event_loop(event);
	_exit(0);
}

static void stage_up(struct stage *stage, const char *const *states, const char *after)
{
	struct play play_of = { .states = states, .after = after };
	int ready[2];
	char byte;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	snprintf(stage->dir, sizeof(stage->dir), "/tmp/cli-restore-XXXXXX");
	assert_non_null(mkdtemp(stage->dir));
	snprintf(stage->socket, sizeof(stage->socket), "%s/s", stage->dir);
	snprintf(stage->log, sizeof(stage->log), "%s/log", stage->dir);
	snprintf(stage->out, sizeof(stage->out), "%s/out", stage->dir);
	stage->pid = fork();
	assert_true(stage->pid >= 0);
	if (!stage->pid)
		serve(stage, &play_of, ready[1]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
}

static void stage_down(struct stage *stage)
{
	char lock[80];

	kill(stage->pid, SIGKILL);
	waitpid(stage->pid, NULL, 0);
	snprintf(lock, sizeof(lock), "%s.lock", stage->socket);
	unlink(lock);
	unlink(stage->socket);
	unlink(stage->log);
	unlink(stage->out);
	rmdir(stage->dir);
}

static char *content(const char *path)
{
	CLEANUP_FILE FILE *file = fopen(path, "re");
	char *text = NULL;
	size_t room = 0;

	if (!file || getdelim(&text, &room, '\0', file) < 0) {
		free(text);
		return strdup("");
	}
	return text;
}

/* Run a command; *@out: what it printed on standard output. */
static enum cli_exit run(struct stage *stage, enum cli_exit (*command)(const struct cli_options *options),
			 struct cli_options options, const char *const *arguments, char **out)
{
	char *argv[4] = { NULL };
	int saved = dup(STDOUT_FILENO), fd = open(stage->out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	enum cli_exit rc;

	for (; arguments[options.argc]; options.argc++)
		argv[options.argc] = strdup(arguments[options.argc]);
	options.argv = argv;
	options.socket = stage->socket;
	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	rc = command(&options);
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	close(fd);
	for (int i = 0; i < options.argc; i++)
		free(argv[i]);
	*out = content(stage->out);
	return rc;
}

#define WORDS(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define ROLLED "{\"ok\":true,\"host\":\"web\",\"status\":\"rolled-back\",\"present\":19,\"copy_of\":17}"

static void a_long_list_is_fetched_whole(void **state)
{
	CLEANUP_FREE char *out = NULL, *asked = NULL;
	CLEANUP_JSON json_t *machines = NULL;
	struct stage stage;

	(void)state;
	stage_up(&stage, WORDS("idle"), "{}");
	assert_int_equal(run(&stage, command_points_list, (struct cli_options){ .json = true }, WORDS("web"), &out), CLI_OK);
	machines = parse(out);
	assert_int_equal(json_array_size(json_object_get(json_array_get(machines, 0), "points")), 5);
	assert_null(json_object_get(json_array_get(machines, 0), "more"));
	asked = content(stage.log);
	assert_string_equal(asked, "{\"command\":\"points\",\"machine\":\"web\"}\n"
				   "{\"after\":2,\"command\":\"points\",\"machine\":\"u-1\"}\n"
				   "{\"after\":4,\"command\":\"points\",\"machine\":\"u-1\"}\n");
	stage_down(&stage);
}

static void a_rollback_is_followed_to_its_end(void **state)
{
	CLEANUP_FREE char *out = NULL, *asked = NULL;
	struct stage stage;

	(void)state;
	stage_up(&stage, WORDS("waiting", "undoing", "restoring", "restoring", "done"), ROLLED);
	assert_int_equal(run(&stage, command_points_rollback, (struct cli_options){ .yes = true },
			     WORDS("web", "2026-11-30", "03:12"), &out), CLI_OK);
	assert_non_null(strstr(out, "Roll back the disks of machine web"));
	assert_non_null(strstr(out, "waiting for"));
	assert_non_null(strstr(out, "take it back:"));
	asked = content(stage.log);
	/* First what would be, with the time as it is here; then the very point that was shown. */
	assert_ptr_equal(strstr(asked, "{\"command\":\"rollback\",\"dry\":true,\"machine\":\"web\",\"point\":\"2026-11-30 03:12\","
				       "\"point_ms\":1796004720000}\n"
				       "{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"#17\"}\n"
				       "{\"command\":\"rollback-status\",\"machine\":\"web\"}\n"),
			 asked);
	stage_down(&stage);
}

static void a_rollback_that_fails(void **state)
{
	CLEANUP_FREE char *out = NULL;
	struct stage stage;

	(void)state;
	stage_up(&stage, WORDS("restoring", "failed"), ROLLED);
	assert_int_equal(run(&stage, command_points_rollback, (struct cli_options){ .yes = true }, WORDS("web", "latest"), &out),
			 CLI_FAILED);
	assert_null(strstr(out, "take it back:"));
	stage_down(&stage);
}

static void a_rollback_is_stopped(void **state)
{
	CLEANUP_FREE char *out = NULL, *asked = NULL, *late = NULL;
	struct stage stage;

	(void)state;
	stage_up(&stage, WORDS("restoring", "undoing", "stopped"), ROLLED);
	assert_int_equal(run(&stage, command_points_rollback, (struct cli_options){ .stop = true }, WORDS("web"), &out), CLI_OK);
	assert_non_null(strstr(out, "undoing what was not completed"));
	assert_non_null(strstr(out, "as they were before it"));
	assert_null(strstr(out, "take it back:"));
	asked = content(stage.log);
	assert_ptr_equal(strstr(asked, "{\"command\":\"rollback-stop\",\"machine\":\"web\"}\n"), asked);
	stage_down(&stage);
	stage_up(&stage, WORDS("restoring", "done"), ROLLED);
	assert_int_equal(run(&stage, command_points_rollback, (struct cli_options){ .stop = true }, WORDS("web"), &late), CLI_FAILED);
	assert_null(strstr(late, "as they were before it"));
	stage_down(&stage);
}

/* The master target was killed, did the rest when it was started again, and nobody asked meanwhile. */
static void a_rollback_that_ended_unseen(void **state)
{
	CLEANUP_FREE char *out = NULL, *other = NULL;
	struct stage stage;

	(void)state;
	stage_up(&stage, WORDS("restoring", "idle"), ROLLED);
	assert_int_equal(run(&stage, command_points_rollback, (struct cli_options){ .yes = true }, WORDS("web", "17"), &out), CLI_OK);
	assert_non_null(strstr(out, "take it back:"));
	stage_down(&stage);
	stage_up(&stage, WORDS("restoring", "idle"), "{\"ok\":true,\"host\":\"web\",\"present\":20,\"copy_of\":null}");
	assert_int_equal(run(&stage, command_points_rollback, (struct cli_options){ .yes = true }, WORDS("web", "17"), &other),
			 CLI_FAILED);
	stage_down(&stage);
}

static void nothing_is_done_unasked(void **state)
{
	CLEANUP_FREE char *out = NULL, *asked = NULL;
	struct stage stage;
	int saved = dup(STDIN_FILENO), null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)state;
	dup2(null, STDIN_FILENO);
	stage_up(&stage, WORDS("idle"), ROLLED);
	assert_int_equal(run(&stage, command_points_rollback, (struct cli_options){ 0 }, WORDS("web", "latest"), &out), CLI_FAILED);
	free(out);
	assert_int_equal(run(&stage, command_points_discard, (struct cli_options){ .discard_all = true }, WORDS("web"), &out),
			 CLI_FAILED);
	free(out);
	/* There is nothing to discard, so nothing to confirm. */
	assert_int_equal(run(&stage, command_points_discard, (struct cli_options){ .newer_than = "17" }, WORDS("web"), &out), CLI_OK);
	dup2(saved, STDIN_FILENO);
	close(saved);
	close(null);
	asked = content(stage.log);
	assert_string_equal(asked, "{\"command\":\"rollback\",\"dry\":true,\"machine\":\"web\",\"point\":\"latest\"}\n"
				   "{\"command\":\"point-discard\",\"dry\":true,\"machine\":\"web\",\"newer_than\":\"17\"}\n");
	stage_down(&stage);
}

static void what_is_asked(void **state)
{
	CLEANUP_FREE char *out = NULL, *asked = NULL;
	struct cli_options yes = { .yes = true };
	struct stage stage;

	(void)state;
	stage_up(&stage, WORDS("idle"), ROLLED);
#define RUN(command, options, ...) \
	do { \
		assert_int_equal(run(&stage, command, options, WORDS(__VA_ARGS__), &out), CLI_OK); \
		free(out); \
	} while (0)
	RUN(command_points_pin, yes, "web", "deploy");
	RUN(command_points_unpin, yes, "web", "17");
	RUN(command_points_discard, yes, "web", "17");
	yes.newer_than = "@5";
	RUN(command_points_discard, yes, "web");
	yes.newer_than = NULL;
	yes.discard_all = true;
	RUN(command_points_discard, yes, "web");
	yes.no_wait = true;
	RUN(command_points_rollback, yes, "web", "undo");
	yes.status = true;
	assert_int_equal(run(&stage, command_points_rollback, yes, WORDS("web"), &out), CLI_OK);
	assert_string_equal(out, "machine web: no rollback is under way\n");
	asked = content(stage.log);
	assert_string_equal(asked,
		"{\"command\":\"point-pin\",\"machine\":\"web\",\"pinned\":true,\"point\":\"deploy\"}\n"
		"{\"command\":\"point-pin\",\"machine\":\"web\",\"pinned\":false,\"point\":\"17\"}\n"
		"{\"command\":\"point-discard\",\"dry\":false,\"machine\":\"web\",\"point\":\"17\"}\n"
		"{\"command\":\"point-discard\",\"dry\":false,\"machine\":\"web\",\"newer_than\":\"@5\",\"newer_than_ms\":5000}\n"
		"{\"command\":\"points-drop\",\"machine\":\"web\"}\n"
		"{\"command\":\"rollback\",\"dry\":true,\"machine\":\"web\",\"point\":\"undo\"}\n"
		"{\"command\":\"rollback\",\"machine\":\"web\",\"point\":\"#17\"}\n"
		"{\"command\":\"rollback-status\",\"machine\":\"web\"}\n");
	stage_down(&stage);
}

static void wrong_usage(void **state)
{
	struct stage stage = { .socket = "/nonexistent", .out = "/dev/null" };
	char *out;

	(void)state;
#define WRONG(command, options, ...) \
	do { \
		assert_int_equal(run(&stage, command, (struct cli_options)options, WORDS(__VA_ARGS__), &out), CLI_USAGE); \
		free(out); \
	} while (0)
	WRONG(command_points_list, { 0 }, "web", "mail");
	WRONG(command_points_pin, { 0 }, "web");
	WRONG(command_points_rollback, { 0 }, "web");
	WRONG(command_points_rollback, { .status = true }, "web", "latest");
	WRONG(command_points_discard, { .discard_all = true }, "web", "latest");
	WRONG(command_points_discard, { .newer_than = "17" }, "web", "latest");
	assert_int_equal(run(&stage, command_points_list, (struct cli_options){ 0 }, WORDS("web"), &out), CLI_NO_DAEMON);
	free(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_list),
		cmocka_unit_test(verdicts_are_in_the_list),
		cmocka_unit_test(no_points_and_why),
		cmocka_unit_test(a_rollback_under_way_is_in_the_list),
		cmocka_unit_test(a_plan),
		cmocka_unit_test(a_plan_warns),
		cmocka_unit_test(the_end),
		cmocka_unit_test(progress),
		cmocka_unit_test(what_is_discarded),
		cmocka_unit_test(a_long_list_is_fetched_whole),
		cmocka_unit_test(a_rollback_is_followed_to_its_end),
		cmocka_unit_test(a_rollback_that_fails),
		cmocka_unit_test(a_rollback_is_stopped),
		cmocka_unit_test(a_rollback_that_ended_unseen),
		cmocka_unit_test(nothing_is_done_unasked),
		cmocka_unit_test(what_is_asked),
		cmocka_unit_test(wrong_usage),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
