/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cli: what the files of the command line share. main.c dispatches to one function for
 * each command; client.c talks to the daemons; format.c turns numbers into text.
 *
 * Exit codes: 0 done, 1 failed, 2 usage, 3 the daemon that is needed does not run.
 */
#ifndef REPROTECT_CLI_H
#define REPROTECT_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_NO_DAEMON = 3 };

enum cli_daemon { CLI_AGENT, CLI_PROCESS_SERVER, CLI_MASTER_TARGET, CLI_DAEMONS };

/**
 * struct cli_options - what was said before and behind the command
 * @socket: control socket to use instead of the usual ones, or NULL
 */
struct cli_options {
	const char *socket;
	const char *name, *mount, *store;
	uint64_t granule_bytes, timeout_ms, watch_ms;
	bool json, force, yes, thaw, stop, watch, release;
	const char *newer_than; /* of points discard and rollback */
	bool discard_all, no_wait, status;
	const char *listen, *plugin, *exports_dir; /* of points export and its kin */
	unsigned partition;
	bool writable, read_only, all;
	int argc; /* what is left: arguments of the command */
	char **argv;
};

/* client.c */
const char *cli_socket(const struct cli_options *options, enum cli_daemon which);
const char *cli_daemon_name(enum cli_daemon which);
/** cli_error - "reprotect: what: why (what to do)" on stderr. @remedy may be NULL. */
void cli_error(const char *remedy, const char *format, ...) __attribute__((format(printf, 2, 3)));
/**
 * cli_call - ask a daemon; takes @request over. Says what went wrong on stderr.
 * Return: CLI_OK and *answer, which has "ok": true; else the exit code.
 */
enum cli_exit cli_call(const struct cli_options *options, enum cli_daemon which, json_t *request,
		       json_t **answer);
/** cli_ask - the same without a word on stderr: 0, negative errno; the answer may be an error */
int cli_ask(const char *path, json_t *request, json_t **answer);
/** cli_print_json - on stdout, indented */
void cli_print_json(const json_t *json);
const char *cli_text(const json_t *json, const char *key); /* "" when there is none */
uint64_t cli_number(const json_t *json, const char *key);  /* 0 when there is none */
bool cli_true(const json_t *json, const char *key);

/* format.c: pure */
/** format_duration - "0 s", "4.2 s", "12 min", "3 h 05 min", "2 d 4 h" */
const char *format_duration(uint64_t ms, char *out, size_t out_bytes);
/** format_bar - "[#####-----]  50 %"; @total 0 counts as done */
const char *format_bar(uint64_t done, uint64_t total, unsigned width, char *out, size_t out_bytes);
/** format_rate - "12.5 MiB/s" */
const char *format_rate(uint64_t bytes_per_s, char *out, size_t out_bytes);
/** format_clean - @text with control characters replaced, so that it cannot steer a terminal */
const char *format_clean(const char *text, char *out, size_t out_bytes);

/* The commands. */
enum cli_exit command_status(const struct cli_options *options);
enum cli_exit command_disk_attach(const struct cli_options *options);
enum cli_exit command_disk_detach(const struct cli_options *options);
enum cli_exit command_disk_list(const struct cli_options *options);
enum cli_exit command_disk_snapshot(const struct cli_options *options);
enum cli_exit command_tag_app(const struct cli_options *options);
enum cli_exit command_tag_crash(const struct cli_options *options);
enum cli_exit command_failback(const struct cli_options *options);
enum cli_exit command_resume(const struct cli_options *options);
enum cli_exit command_preflight_retention(const struct cli_options *options);
enum cli_exit command_points_list(const struct cli_options *options);
enum cli_exit command_points_pin(const struct cli_options *options);
enum cli_exit command_points_unpin(const struct cli_options *options);
enum cli_exit command_points_discard(const struct cli_options *options);
enum cli_exit command_points_rollback(const struct cli_options *options);
enum cli_exit command_points_export(const struct cli_options *options);
enum cli_exit command_points_exports(const struct cli_options *options);
enum cli_exit command_points_unexport(const struct cli_options *options);
enum cli_exit command_points_mount(const struct cli_options *options);
enum cli_exit command_points_unmount(const struct cli_options *options);
enum cli_exit command_points_verify(const struct cli_options *options);
enum cli_exit command_target_list(const struct cli_options *options);
enum cli_exit command_target_forget(const struct cli_options *options);

/** preflight_print - what reprotect preflight retention found: its JSON, for people */
void preflight_print(const json_t *json, FILE *out);
/** points_request - @command about the point @selector of @machine, as a person wrote it: also what it means as a time here */
json_t *points_request(const char *command, const char *machine, const char *selector);
/** status_early - early boot, as the agent shows it: its "early" */
void status_early(const json_t *early, FILE *out);
/** status_points - of an agent: whether its epochs are consistent, its tags; @now_ms: wall clock */
void status_points(const json_t *answer, uint64_t now_ms, FILE *out);
/** status_target_points - what a machine's target is, as the master target shows it */
void status_target_points(const json_t *machine, uint64_t now_ms, FILE *out);
/** status_target - the lines of one machine as the master target shows it */
void status_target(const json_t *machine);
/** status_process_server - what a process server answered, for people; @now_ms: wall clock, for the age of errors */
void status_process_server(const json_t *answer, uint64_t now_ms, FILE *out);

#endif
