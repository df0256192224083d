// SPDX-License-Identifier: GPL-2.0-or-later
/* scripts: see scripts.h. One child at a time. */
#include "scripts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "util.h"

/* All of the tag has to fit into a frame: output shares what is left of it. */
#define OUTPUT_TOTAL_BYTES (32u * 1024u)

struct scripts {
	sd_event *event;
	char *paths[SCRIPTS_MAX];
	size_t count, started; /* started: pre was, of the first so many */
	size_t at;	       /* the one that runs; post: counted down */
	bool post;
	uint64_t timeout_ms;
	size_t output_bytes;
	char environment[6][PATH_MAX + 64];
	struct child *child;
	json_t *results;
	char error[384];
	void (*done)(void *user, const char *error);
	void *user;
};

static bool ignored(const char *name)
{
	size_t length = strlen(name);

	return name[0] == '.' || name[length - 1] == '~' || strstr(name, ".dpkg-") ||
	       strstr(name, ".rpm") || !strncmp(name, "README", 6);
}

/* Owned by root or ourselves, and writable by nobody else. */
static bool trusted(const struct stat *st)
{
	return (st->st_uid == 0 || st->st_uid == geteuid()) && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int find(struct scripts *scripts, const char *directory, char *error, size_t error_bytes)
{
	struct dirent *entry;
	struct stat st;
	DIR *dir = opendir(directory);
	int rc = 0;

	if (!dir) {
		rc = errno == ENOENT ? 0 : -errno;
		if (rc)
			snprintf(error, error_bytes, "%s: cannot read: %s", directory, strerror(-rc));
		return rc;
	}
	if (fstat(dirfd(dir), &st) || !trusted(&st)) {
		snprintf(error, error_bytes, "%s: may be written by others than root", directory);
		rc = -EPERM;
	}
	while (!rc && (entry = readdir(dir))) {
		char path[PATH_MAX];

		if (ignored(entry->d_name))
			continue;
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		if (stat(path, &st) || !S_ISREG(st.st_mode) || !(st.st_mode & S_IXUSR))
			continue;
		if (!trusted(&st)) {
			snprintf(error, error_bytes, "%s: may be written by others than root", path);
			rc = -EPERM;
		} else if (scripts->count == SCRIPTS_MAX) {
			snprintf(error, error_bytes, "%s: more than %u scripts", directory, SCRIPTS_MAX);
			rc = -E2BIG;
		} else {
			scripts->paths[scripts->count] = strdup(path);
			rc = scripts->paths[scripts->count] ? 0 : -ENOMEM;
			scripts->count += !rc;
		}
	}
	closedir(dir);
	if (!rc)
		qsort(scripts->paths, scripts->count, sizeof(scripts->paths[0]), by_name);
	return rc;
}

static void next(struct scripts *scripts);

static void finish(struct scripts *scripts)
{
	char error[sizeof(scripts->error)];

	memcpy(error, scripts->error, sizeof(error));
	scripts->error[0] = '\0';
	scripts->done(scripts->user, error); /* may free it */
}

static void last_line(const char *output, char *out, size_t out_bytes)
{
	size_t end = strlen(output), start;

	while (end && output[end - 1] == '\n')
		end--;
	for (start = end; start && output[start - 1] != '\n';)
		start--;
	snprintf(out, out_bytes, "%.*s", (int)(end - start), output + start);
}

static void failed(struct scripts *scripts, const char *path, const char *what, const char *output)
{
	char line[160];

	last_line(output, line, sizeof(line));
	if (!scripts->error[0])
		snprintf(scripts->error, sizeof(scripts->error), "%s %s: %s%s%s", path,
			 scripts->post ? "post" : "pre", what, line[0] ? ": " : "", line);
}

static void over(void *user, const struct child_result *result)
{
	struct scripts *scripts = user;
	const char *path = scripts->paths[scripts->at], *output = result->output;
	size_t bytes = strlen(output);
	char what[64];

	if (bytes > OUTPUT_TOTAL_BYTES - scripts->output_bytes)
		output += bytes - (OUTPUT_TOTAL_BYTES - scripts->output_bytes);
	scripts->output_bytes += strlen(output);
	json_array_append_new(scripts->results,
			      json_pack("{s:s, s:s, s:i, s:I, s:s}", "path", path, "phase",
					scripts->post ? "post" : "pre", "exit", result->exit, "ms",
					(json_int_t)result->ms, "output", output));
	if (result->timed_out)
		snprintf(what, sizeof(what), "not done within %llu ms, killed",
			 (unsigned long long)scripts->timeout_ms);
	else
		snprintf(what, sizeof(what), "exit status %d", result->exit);
	if (result->timed_out || result->exit)
		failed(scripts, path, what, result->output);
	child_free(scripts->child);
	scripts->child = NULL;
	next(scripts);
}

/* Run the next one, or say that that was all. */
static void next(struct scripts *scripts)
{
	for (;;) {
		char *environment[ARRAY_LENGTH(scripts->environment) + 1] = { 0 };
		char *argv[] = { NULL, NULL, NULL };
		int rc;

		if (scripts->post ? !scripts->started : scripts->started == scripts->count || scripts->error[0])
			break;
		scripts->at = scripts->post ? --scripts->started : scripts->started++;
		argv[0] = scripts->paths[scripts->at];
		argv[1] = (char *)(uintptr_t)(scripts->post ? "post" : "pre");
		snprintf(scripts->environment[0], sizeof(scripts->environment[0]), "REPROTECT_PHASE=%s",
			 argv[1]);
		for (size_t i = 0; i < ARRAY_LENGTH(scripts->environment); i++)
			environment[i] = scripts->environment[i];
		rc = child_start(&scripts->child, scripts->event, argv, environment, NULL, NULL,
				 scripts->timeout_ms, over, scripts);
		if (!rc)
			return;
		failed(scripts, argv[0], strerror(-rc), "");
	}
	finish(scripts);
}

static void begin(struct scripts *scripts, bool post, void (*done)(void *user, const char *error), void *user)
{
	scripts->post = post;
	scripts->done = done;
	scripts->user = user;
	next(scripts);
}

void scripts_pre(struct scripts *scripts, void (*done)(void *user, const char *error), void *user)
{
	begin(scripts, false, done, user);
}

void scripts_post(struct scripts *scripts, void (*done)(void *user, const char *error), void *user)
{
	begin(scripts, true, done, user);
}

json_t *scripts_results(const struct scripts *scripts)
{
	return scripts->results;
}

void scripts_free(struct scripts *scripts)
{
	if (!scripts)
		return;
	child_free(scripts->child);
	for (size_t i = 0; i < scripts->count; i++)
		free(scripts->paths[i]);
	json_decref(scripts->results);
	free(scripts);
}

int scripts_new(struct scripts **out, sd_event *event, const char *directory, const char *tag,
		const char *run_dir, uint64_t timeout_ms, uint64_t hold_ms, char *error,
		size_t error_bytes)
{
	struct scripts *scripts = calloc(1, sizeof(*scripts));
	int rc;

	if (!scripts)
		return -ENOMEM;
	scripts->event = event;
	scripts->timeout_ms = timeout_ms;
	scripts->results = json_array();
	snprintf(scripts->environment[1], sizeof(scripts->environment[1]), "REPROTECT_TAG_NAME=%s", tag);
	snprintf(scripts->environment[2], sizeof(scripts->environment[2]), "REPROTECT_RUN_DIR=%s", run_dir);
	snprintf(scripts->environment[3], sizeof(scripts->environment[3]), "REPROTECT_HOLD_SECONDS=%llu",
		 (unsigned long long)((hold_ms + 999) / 1000));
	snprintf(scripts->environment[4], sizeof(scripts->environment[4]),
		 "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	snprintf(scripts->environment[5], sizeof(scripts->environment[5]), "LC_ALL=C");
	rc = scripts->results ? find(scripts, directory, error, error_bytes) : -ENOMEM;
	if (rc) {
		scripts_free(scripts);
		return rc;
	}
	*out = scripts;
	return 0;
}
