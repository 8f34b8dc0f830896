/* redis_script.h - what the shared tier does inside Redis, where nothing comes in between.
 *
 * Each text is run by EVAL with the keys and arguments that its first lines name, may be run
 * twice, and answers with a list whose first word says what became of it. All are constants.
 * They touch keys that they find in other keys, so they are not for a Redis Cluster. */
#ifndef SERVER_STATE_REDIS_SCRIPT_H
#define SERVER_STATE_REDIS_SCRIPT_H

extern const char redis_script_look[], redis_script_take[], redis_script_renew[],
    redis_script_leave[], redis_script_upload[], redis_script_commit[], redis_script_delete[];

#endif
