import herdwire

with herdwire.connect() as herd:
    herd.subscribe("jobs")
    herd.ready()
    for job in herd.receive():
        herd.publish("results", {"job": job.value, "by": herd.me["index"]})
